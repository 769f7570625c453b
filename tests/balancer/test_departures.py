import random
from collections import deque

from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancer.assignment import End
from balancer.controller import Controller
from balancer.departures import Departure, Departures
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.policies.round_robin import RoundRobin
from shm.group_table import GroupEntry, GroupState
from shm.load import NOT_TOLD, Accepted
from tests.balancer.loads import GROUP_EPOCH, report

DOOR = 500


def told(tokens, requests, ended_tokens, ended_requests):
    return Accepted(DOOR, tokens, requests, ended_tokens, ended_requests)


def departures(*news, num_returned=0):
    """After these reports and departures, in that order."""
    made = Departures()
    for one in news:
        if isinstance(one, Departure):
            made.add(one)
        else:
            made.observe(one, num_returned)
    return made.tokens, made.requests


def test_what_ended_after_the_report_is_taken_off():
    """
    The report has accepted both and ended none; one is over.
    """
    assert departures(told(30, 2, 0, 0), Departure(1, 10, 17)) == (17, 1)


def test_a_report_that_tells_of_the_end_holds_it_no_more():
    """
    Nothing is left to be taken off: it would be counted less than once.
    """
    assert departures(told(30, 2, 0, 0), Departure(1, 10, 17), told(30, 2, 10, 1)) == (0, 0)


def test_a_report_may_tell_of_an_end_before_it_is_heard_of():
    """
    Reports and answers are on the way at the same time.
    """
    assert departures(told(30, 2, 10, 1), Departure(1, 10, 17)) == (0, 0)
    assert departures(told(30, 2, 10, 1), Departure(1, 10, 17), Departure(2, 20, 25)) == (25, 1)


def test_those_that_the_next_report_still_lacks_stay_off():
    """
    Three are over; the report tells of two.
    """
    over = [Departure(n, n, 10 * n) for n in (1, 2, 3)]
    assert departures(told(6, 3, 0, 0), *over) == (60, 3)
    assert departures(told(6, 3, 0, 0), *over, told(6, 3, 3, 2)) == (30, 1)


def test_nothing_is_taken_off_while_it_is_not_known_which_ended():
    """
    The group ended the second one first, and the first was heard of first: the charges
    of the latest do not add up to what is missing.
    """
    heard = [Departure(1, 10, 17), Departure(2, 20, 25)]
    assert departures(told(30, 2, 0, 0), *heard, told(30, 2, 20, 1)) == (0, 0)
    assert departures(told(30, 2, 0, 0), *heard, told(30, 2, 20, 1), told(30, 2, 30, 2)) == (0, 0)


def test_what_is_not_known_is_settled_by_later_reports():
    """
    Once the report has caught up, the next departure is taken off as ever.
    """
    heard = [Departure(1, 10, 17), Departure(2, 20, 25)]
    news = (told(60, 3, 0, 0), *heard, told(60, 3, 20, 1), told(60, 3, 30, 2))
    assert departures(*news, Departure(3, 30, 31)) == (31, 1)


def test_what_the_report_has_not_accepted_is_in_flight_and_stays_there():
    """
    Its life was shorter than the way of a report: the charge counts, and nothing else does.
    """
    assert departures(told(10, 1, 0, 0), Departure(2, 20, 25)) == (0, 0)
    assert departures(told(10, 1, 0, 0), Departure(2, 20, 25), told(30, 2, 0, 0)) == (25, 1)


def test_dispatches_that_were_taken_back_have_ordinals_too():
    """
    The second was never sent: the third is the second that the group accepts.
    """
    news = (told(30, 2, 0, 0), Departure(3, 20, 25))
    assert departures(*news) == (0, 0)
    assert departures(*news[:1], *news[1:], num_returned=1) == (25, 1)


def test_what_may_never_have_been_held_takes_nothing_off():
    """
    It was given up before an answer began; what came after it is still told apart.
    """
    news = (told(30, 2, 0, 0), Departure(1, 10, 0), Departure(2, 20, 25))
    assert departures(*news) == (25, 1)
    assert departures(*news, told(30, 2, 10, 1)) == (25, 1)


def test_a_group_that_does_not_tell_is_believed():
    """
    Other people's engines count no ends: their figures stand as they are.
    """
    silent = Accepted(DOOR, 30, 2)
    assert silent.ended_requests == NOT_TOLD
    assert departures(silent, Departure(1, 10, 17)) == (0, 0)


def test_what_ended_before_the_first_report_is_not_guessed_at():
    """
    Its departures were not kept, so those that the report lacks are not all known.
    """
    assert departures(Departure(1, 10, 17), told(30, 2, 0, 0)) == (0, 0)
    assert departures(Departure(1, 10, 17), told(30, 2, 0, 0), Departure(2, 20, 25)) == (0, 0)
    late = (Departure(1, 10, 17), told(30, 2, 0, 0), told(30, 2, 10, 1), Departure(2, 20, 25))
    assert departures(*late) == (25, 1)


# A whole front door, with groups that accept in the order of dispatch


class Group:
    """One group and its front door, with reports and answers on their way."""

    def __init__(self):
        costs = random.Random(0)
        ledger = Ledger(slot=0, epoch=DOOR, num_front_doors=1, num_groups=1, note=lambda *_: None)
        self.door = Controller(RoundRobin(costs), ledger, 1, costs, max_load_age_ns=10**9)
        self.door.observe_group(GroupEntry(0, GroupState.READY, GROUP_EPOCH))
        self.sent, self.held, self.answered = deque(), {}, deque()
        self.over = []  # known to the front door
        self.accepted = self.ended = ()
        self.shown = {}  # tokens of each that the front door's report holds
        self.now_ns = 0
        self.report()

    def dispatch(self, tokens):
        self.sent.append(self.door.assign(RequestShape(tokens)))

    def accept(self):
        if self.sent:
            assignment = self.sent.popleft()
            self.accepted += (assignment.charge_tokens,)
            self.held[assignment] = assignment.charge_tokens

    def step(self):
        for assignment in self.held:
            self.held[assignment] += 1
            self.door.streamed(assignment, 1)

    def finish(self, pick):
        if self.held:
            assignment = list(self.held)[pick % len(self.held)]
            self.answered.append((assignment, self.held.pop(assignment)))
            self.ended += (assignment.charge_tokens,)

    def answer(self):
        if self.answered:
            assignment, tokens = self.answered.popleft()
            self.door.release(assignment, End.REACHED)
            self.over.append((assignment, tokens))

    def report(self):
        self.now_ns += 1
        told = Accepted(
            DOOR, sum(self.accepted), len(self.accepted), sum(self.ended), len(self.ended)
        )
        self.shown = dict(self.held)
        holding = sum(self.held.values())
        said = {"holding_tokens": holding, "running_requests": len(self.held), "max_requests": 99}
        said |= {"sampled_ns": self.now_ns, "accepted": (told,), "group_epoch": GROUP_EPOCH}
        self.door.observe_reports([report(0, **said)])
        self.door.observe_time(self.now_ns)

    def check(self):
        """Each that the report holds and that is not known to be over, and nothing of the rest."""
        gone = [(one, tokens) for one, tokens in self.over if one in self.shown]
        expected = sum(self.shown.values()) - sum(tokens for _, tokens in gone)
        load = self.door.loads()[0]
        assert load.holding_tokens == max(0, expected)
        assert load.held_requests == len(self.shown) - len(gone)


happenings = st.one_of(
    st.tuples(st.just("dispatch"), st.integers(1, 50)),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.sampled_from([("accept",), ("step",), ("answer",), ("report",)]),
)


@given(st.lists(happenings, max_size=60))
@example([("dispatch", 5), ("accept",), ("report",), ("finish", 0), ("answer",)])
@settings(max_examples=500, deadline=None)
def test_a_request_that_is_known_to_be_over_counts_no_more(happened):
    """
    From the answer's end on, whenever the report comes that tells so; nobody else's goes with it.
    """
    group = Group()
    for what, *details in happened:
        getattr(group, what)(*details)
        group.check()


def test_the_next_life_of_a_group_begins_with_nothing_departed():
    """
    Else what ended in the last one would never add up with what the new one tells.
    """
    group = Group()
    for tokens in (7, 8):
        group.dispatch(tokens)
        group.accept()
    group.report()
    group.finish(0)
    group.answer()

    group.door.observe_group(GroupEntry(0, GroupState.READY, GROUP_EPOCH + 1))
    ledger = group.door.ledger
    assert (ledger.departures(0).tokens, ledger.departures(0).requests) == (0, 0)
    sent = group.door.assign(RequestShape(5))
    told = Accepted(DOOR, 5, 1, 0, 0)
    held = {"holding_tokens": 5, "running_requests": 1, "max_requests": 99}
    group.door.observe_reports(
        [report(0, **held, sampled_ns=99, accepted=(told,), group_epoch=GROUP_EPOCH + 1)]
    )
    group.door.observe_time(99)
    group.door.release(sent, End.REACHED)

    assert group.door.loads()[0][1:5] == (0, 0, 0, 0)
