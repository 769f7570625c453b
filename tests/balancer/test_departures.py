import random
from collections import deque
from itertools import combinations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancer.assignment import End
from balancer.controller import Controller
from balancer.departures import MOST_UNTOLD, Departure, Departures
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.policies.round_robin import RoundRobin
from shm.group_table import GroupEntry, GroupState
from shm.load import Accepted, Ended
from tests.balancer.loads import GROUP_EPOCH, report

DOOR = 500


def gone(number, held=0):
    """The request of that ordinal has ended."""
    return Departure(number, number, held)


def told(*numbers):
    """A report tells that these have ended."""
    ended = Ended(0, 0)
    for number in numbers:
        ended = ended.plus(number)
    return ended


def taken_off(*news, num_accepted=99):
    """After these reports and departures, in that order."""
    made = Departures()
    made.accept_all(num_accepted)
    for one in news:
        if isinstance(one, Departure):
            made.add(one)
        else:
            made.observe(one)
        made.check_integrity()
    return made.taken_off


def test_what_ended_after_the_report_is_taken_off():
    """
    The report tells of none; one is over.
    """
    assert taken_off(told(), gone(1, 17)) == (17, 1)


def test_a_report_that_tells_of_the_end_holds_it_no_more():
    """
    Nothing is left to be taken off: it would be counted less than once.
    """
    assert taken_off(told(), gone(1, 17), told(1)) == (0, 0)


def test_a_report_may_tell_of_an_end_before_it_is_heard_of():
    """
    Reports and answers are on the way at the same time.
    """
    assert taken_off(told(1), gone(1, 17)) == (0, 0)
    assert taken_off(told(1), gone(1, 17), gone(2, 25)) == (25, 1)


def test_those_that_the_next_report_still_lacks_stay_off():
    """
    Three are over; the report tells of two.
    """
    over = [gone(n, 10 * n) for n in (1, 2, 3)]
    assert taken_off(told(), *over) == (60, 3)
    assert taken_off(told(), *over, told(1, 2)) == (30, 1)


def test_nothing_is_taken_off_while_it_is_not_known_which_ended():
    """
    The group ended the second one first, and the first was heard of first: as many are over, but
    not the same.
    """
    heard = [gone(1, 17), gone(2, 25)]
    assert taken_off(told(), *heard, told(2)) == (0, 0)
    assert taken_off(told(), *heard, told(2), told(1, 2)) == (0, 0)
    assert taken_off(told(), *heard, told(2), told(1, 2), gone(3, 31)) == (31, 1)


def test_an_end_that_is_told_and_not_heard_of_keeps_all_others_on():
    """
    Somebody reads his answer slowly: what the report has, is what counts.
    """
    assert taken_off(told(7), gone(1, 17)) == (0, 0)
    assert taken_off(told(7), gone(1, 17), gone(2, 25)) == (0, 0)
    assert taken_off(told(7), gone(1, 17), gone(7, 3), gone(2, 25), told(7, 1)) == (25, 1)


def test_what_the_report_may_not_have_accepted_stays_on():
    """
    It may be in flight, with its charge; of others it is certain.
    """
    assert taken_off(told(), gone(2, 25), num_accepted=1) == (0, 0)
    assert taken_off(told(), gone(2, 25), gone(1, 17), num_accepted=1) == (17, 1)


def test_what_may_never_have_been_held_takes_nothing_off():
    """
    Or is held yet, by a group that has not heard that its client left.
    """
    assert taken_off(told(), gone(1, None), gone(2, 25)) == (25, 1)
    assert taken_off(told(), gone(1, None), gone(2, 25), told(1)) == (25, 1)


def test_ids_of_all_sizes_are_told_apart():
    """
    Half of them have the highest of their 64 bits set, and a word of a report has 63.
    """
    high = [(1 << 63) + 5, (1 << 64) - 1, 7, (1 << 63) + 9]
    over = [Departure(one, 1, 10) for one in high]
    ended = Ended(0, 0)
    for one in high[:2]:
        ended = ended.plus(one)
    assert taken_off(told(), *over) == (40, 4)
    assert taken_off(told(), *over, ended) == (20, 2)
    assert taken_off(*over[:2], ended, *over[2:]) == (20, 2)
    assert taken_off(told(), *over, Ended(2, 1)) == (0, 0)
    highest = (1 << 63) - 5
    both = [Departure(highest, 1, 17), Departure(10, 2, 25)]
    assert taken_off(told(), *both, told(highest)) == (25, 1)


def test_as_many_others_that_ended_are_not_the_same():
    """
    Counts that agree say nothing of who it was.
    """
    assert taken_off(told(7), gone(1, 17)) == (0, 0)
    assert taken_off(told(7), gone(1, 17), gone(2, 25)) == (0, 0)


def test_what_ended_before_the_first_report_is_not_guessed_at():
    """
    Its departures were not kept, so those that the report lacks are not all known.
    """
    assert taken_off(gone(1, 17), told(), gone(2, 25)) == (0, 0)
    assert taken_off(gone(1, 17), told(), told(1), gone(2, 25)) == (25, 1)


def test_a_group_that_tells_of_no_end_is_believed_after_so_many():
    """
    No memory grows without end; a report that catches up makes all well again.
    """
    over = [gone(n, 1) for n in range(1, MOST_UNTOLD + 1)]
    accepted = {"num_accepted": MOST_UNTOLD + 9}
    assert taken_off(told(), *over, **accepted) == (MOST_UNTOLD, MOST_UNTOLD)

    over.append(gone(MOST_UNTOLD + 1, 1))
    assert taken_off(told(), *over, **accepted) == (0, 0)
    caught_up = told(*range(1, MOST_UNTOLD + 2))
    assert taken_off(told(), *over, caught_up, gone(MOST_UNTOLD + 2, 5), **accepted) == (5, 1)


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
        self.accepted, self.ended = (), Ended(0, 0)
        self.shown = {}  # tokens of each that the front door's report holds
        self.now_ns = 0
        self.report()

    def dispatch(self, tokens):
        self.sent.append(self.door.assign(RequestShape(tokens)))

    def take(self, tokens):
        """It is sent and taken in, and a report tells so."""
        self.dispatch(tokens)
        self.accept()
        self.report()

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
            self.answered.append((assignment, self._drop(assignment)))

    def _drop(self, assignment):
        self.ended = self.ended.plus(int(assignment.dp_balance_id, 16))
        return self.held.pop(assignment)

    def answer(self, pick=0):
        """Most answers come in the order of the ends."""
        if self.answered:
            assignment, tokens = self.answered[pick % len(self.answered)]
            del self.answered[pick % len(self.answered)]
            self.door.release(assignment, End.COMPLETED)
            self.over.append((assignment, tokens))

    def leave(self, pick):
        """A client leaves; the group hears of it later."""
        if self.held:
            assignment = list(self.held)[pick % len(self.held)]
            self.door.release(assignment, End.REACHED)

    def abort(self):
        """It has heard of those that left."""
        for assignment in [one for one in self.held if not one.is_open]:
            self._drop(assignment)

    def report(self):
        self.now_ns += 1
        told = Accepted(DOOR, sum(self.accepted), len(self.accepted), *self.ended)
        self.shown = dict(self.held)
        holding = sum(self.held.values())
        said = {"holding_tokens": holding, "running_requests": len(self.held), "max_requests": 99}
        said |= {"sampled_ns": self.now_ns, "accepted": (told,), "group_epoch": GROUP_EPOCH}
        self.door.observe_reports([report(0, **said)])
        self.door.observe_time(self.now_ns)

    def check(self, *, is_certain):
        """
        Each that the report holds and that is not known to be over, and nothing of the rest.

        Or, unless it has to be certain, all that the report holds of some of those that are over.
        """
        self.door.check_integrity()
        gone = [tokens for one, tokens in self.over if one in self.shown]
        load = self.door.loads()[0]
        num_off = len(self.shown) - load.held_requests
        assert 0 <= num_off <= len(gone)
        if is_certain:
            assert num_off == len(gone)
        sums = {sum(some) for some in combinations(gone, num_off)}
        held = sum(self.shown.values())
        assert load.holding_tokens in {max(0, held - taken) for taken in sums}


happenings = st.one_of(
    st.tuples(st.just("dispatch"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["finish", "leave", "answer"]), st.integers(0, 4)),
    st.sampled_from([("accept",), ("step",), ("answer",), ("report",), ("abort",)]),
)


@given(st.lists(happenings, max_size=40))
@settings(max_examples=500, deadline=None)
def test_nothing_but_what_is_over_is_taken_off(happened):
    """
    Whatever order ends are told and heard of in, whoever leaves, however alike requests are.
    """
    group = Group()
    for what, *details in happened:
        getattr(group, what)(*details)
        group.check(is_certain=False)


in_order = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 50)),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.sampled_from([("step",), ("answer",), ("report",)]),
)


@given(st.lists(in_order, max_size=60))
@example([("take", 5), ("report",), ("finish", 0), ("answer",)])
@settings(max_examples=500, deadline=None)
def test_a_request_that_is_known_to_be_over_counts_no_more(happened):
    """
    From the answer's end on, whenever the report comes that tells so, if answers come
    in the order of the ends, and after a report that told of nobody in flight.
    """
    group = Group()
    is_ahead = False
    for what, *details in happened:
        getattr(group, what)(*details)
        is_ahead = is_ahead if what != "report" else bool(group.answered)
        is_ahead = is_ahead and bool(group.answered)
        group.check(is_certain=not is_ahead)


def test_a_client_that_leaves_hides_nobody_elses_end():
    """
    The group ends another before it hears of the one that left: requests are alike, and the
    one that is held yet is counted.
    """
    group = Group()
    for _ in range(2):
        group.take(1)
    group.leave(0)
    group.finish(1)
    group.report()
    group.answer()

    assert group.door.loads()[0].held_requests == 1
    group.abort()
    group.report()
    assert group.door.loads()[0].held_requests == 0


def test_what_a_report_has_not_accepted_is_not_taken_off_it():
    """
    One is held, and one is answered before a report has told that it came: it is in flight there.
    """
    group = Group()
    group.take(5)
    group.take(6)
    group.dispatch(7)
    group.finish(0)
    group.answer()
    group.report()
    group.accept()
    group.finish(1)
    group.answer()

    load = group.door.loads()[0]
    assert load[1:5] == (6, 7, 1, 1)
    group.report()
    assert group.door.loads()[0][1:5] == (6, 0, 1, 0)


def test_a_request_of_several_choices_is_left_to_the_report():
    """
    Some may have left the group before the last one did, with what they had written.
    """
    group = Group()
    group.take(5)
    several = group.door.assign(RequestShape(8, num_outputs=2))
    group.sent.append(several)
    group.accept()
    group.report()
    group.finish(1)
    group.answer()

    assert group.door.loads()[0].held_requests == 2
    group.report()
    assert group.door.loads()[0].held_requests == 1


def test_another_life_of_the_front_door_says_nothing_of_this_one():
    """
    Its counters stand in the report until the group hears of this one.
    """
    group = Group()
    group.dispatch(5)
    old = Accepted(DOOR - 1, 5, 1, 0, 0)
    said = {"holding_tokens": 5, "running_requests": 1, "max_requests": 9, "accepted": (old,)}
    group.door.observe_reports([report(0, **said, sampled_ns=9, group_epoch=GROUP_EPOCH)])
    group.door.observe_time(9)
    group.door.release(group.sent[0], End.COMPLETED)

    assert group.door.loads()[0][1:5] == (5, 5, 1, 1)


def test_prompts_of_what_has_ended_are_no_more_than_what_is_left():
    """
    8 tokens that the report has yet to compute, and nothing that could hold them.
    """
    group = Group()
    group.dispatch(8)
    sent = group.sent[0]
    told = Accepted(DOOR, 8, 1, 0, 0)
    said = {"holding_tokens": 8, "running_requests": 1, "max_requests": 9, "accepted": (told,)}
    said |= {"waiting_uncached_tokens": 8, "sampled_ns": 9, "group_epoch": GROUP_EPOCH}
    group.door.observe_reports([report(0, **said)])
    group.door.observe_time(9)
    assert group.door.loads()[0].uncached_tokens == 8

    group.door.release(sent, End.COMPLETED)

    assert group.door.loads()[0] == (0, 0, 0, 0, 0, 0)


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
    assert group.door.ledger.taken_off(0) == (0, 0)
    sent = group.door.assign(RequestShape(5))
    held = {"holding_tokens": 5, "running_requests": 1, "max_requests": 99}
    told = Accepted(DOOR, 5, 1, 0, 0)
    group.door.observe_reports(
        [report(0, **held, sampled_ns=99, accepted=(told,), group_epoch=GROUP_EPOCH + 1)]
    )
    group.door.observe_time(99)
    group.door.release(sent, End.COMPLETED)

    assert group.door.loads()[0][1:5] == (0, 0, 0, 0)
