"""Every state of a group with every piece of evidence."""

import itertools

import pytest

from router.card import Card
from router.control_plane.member import (
    Member,
    asked,
    drained,
    is_silent,
    known,
    not_asked,
    presented,
    probed,
    suspected,
)
from shm.group_table import GroupEntry, GroupState

STARTING, READY, SUSPECT, DRAINING, RELEASED, DEAD = (
    GroupState(word) for word in ("starting", "ready", "suspect", "draining", "released", "dead")
)
STATES = tuple(GroupState)
UNKNOWN = Member(GroupEntry(0, STARTING))


def card(epoch=5, port=1000, pid=1, **fields):
    return Card(0, epoch, "127.0.0.1", port, pid, "m", 2048, "/t", **fields)


def member(state, epoch=5, port=1000, given=None, **fields):
    entry = GroupEntry(0, state, epoch, "127.0.0.1", port, "m", 2048, "/t")
    return Member(entry, given, **fields)


def later_epoch(group):
    return presented(group, card(6, 1001), process_alive=True)


def same_card(group):
    return presented(group, card(), process_alive=True)


def card_says_draining(group):
    return presented(group, card(state="draining"), process_alive=True)


def card_says_released(group):
    return presented(group, card(state="released"), process_alive=True)


def process_gone(group):
    return presented(group, card(), process_alive=False)


def no_card(group):
    return presented(group, None, process_alive=True)


def neither_card_nor_process(group):
    return presented(group, None, process_alive=False)


def healthy(group):
    return probed(group, healthy=True)


def one_failure(group):
    return probed(group, healthy=False)


def two_failures(group):
    return probed(one_failure(group), healthy=False)


def stale_and_unanswered(group):
    return suspected(group)


AFTER = {
    #                      starting  ready     suspect   draining  released  dead
    later_epoch:          (STARTING, STARTING, STARTING, STARTING, STARTING, STARTING),
    same_card:            (STARTING, READY,    SUSPECT,  DRAINING, SUSPECT,  DEAD),
    card_says_draining:   (DRAINING, DRAINING, DRAINING, DRAINING, DRAINING, DEAD),
    card_says_released:   (RELEASED, RELEASED, RELEASED, DRAINING, RELEASED, DEAD),
    process_gone:         (DEAD,     DEAD,     DEAD,     DEAD,     DEAD,     DEAD),
    no_card:              (STARTING, READY,    SUSPECT,  DRAINING, RELEASED, DEAD),
    neither_card_nor_process: (DEAD, DEAD,     DEAD,     DEAD,     DEAD,     DEAD),
    drained:              (DRAINING, DRAINING, DRAINING, DRAINING, DRAINING, DEAD),
    healthy:              (READY,    READY,    READY,    DRAINING, RELEASED, READY),
    one_failure:          (STARTING, READY,    SUSPECT,  DRAINING, RELEASED, DEAD),
    two_failures:         (STARTING, DEAD,     DEAD,     DRAINING, DEAD,     DEAD),
    stale_and_unanswered: (STARTING, SUSPECT,  SUSPECT,  DRAINING, RELEASED, DEAD),
}  # fmt: skip
ORDER = (STARTING, READY, SUSPECT, DRAINING, RELEASED, DEAD)
ROWS = [
    (evidence, before, after)
    for evidence, row in AFTER.items()
    for before, after in zip(ORDER, row, strict=True)
]


def test_every_state_meets_every_evidence():
    """
    No state of the table that is not in this one.
    """
    assert {before for _, before, _ in ROWS} == set(STATES)


@pytest.mark.parametrize(
    ("evidence", "before", "after"), ROWS, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_what_evidence_makes_of_a_group(evidence, before, after):
    """
    As the module's table has it.
    """
    group = known(member(before).entry)

    assert evidence(group).entry.state is after


# Cards


def test_a_first_card_makes_a_group_known_but_not_ready():
    """
    Its health is yet to be asked.
    """
    assert presented(UNKNOWN, card(), process_alive=True) == member(STARTING, given=card())


@pytest.mark.parametrize("state", STATES)
def test_a_later_epoch_is_a_new_life(state):
    """
    Whatever the old life's state, failures and orders were.
    """
    old = member(state, given=card(), num_failures=1, asked_ns=7, is_leaving=True, was_told=True)

    new = presented(old, card(6, 1001), process_alive=True)

    assert new == member(STARTING, 6, 1001, given=card(6, 1001))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("found", "alive"), [(None, False), (card(), False), (card(4), True), (card(6), False)]
)
def test_a_known_group_without_a_living_card_is_dead_and_has_none(state, found, alive):
    """
    The card is gone, its process is dead, or it is a former life's: nobody is asked any more.
    """
    dead = presented(member(state, given=card()), found, process_alive=alive)

    assert dead == member(DEAD)


@pytest.mark.parametrize(("found", "alive"), [(None, False), (card(), False)])
def test_an_unknown_group_is_not_declared_dead(found, alive):
    """
    It is still starting.
    """
    assert presented(UNKNOWN, found, process_alive=alive) == UNKNOWN


@pytest.mark.parametrize("state", STATES)
def test_the_same_card_changes_nothing_else(state):
    """
    After a restart of the control plane a known group's card is taken up again.
    """
    own = card(state="released") if state is RELEASED else card()

    same = presented(member(state, num_failures=1), own, process_alive=True)

    assert same == member(state, given=own, num_failures=1)


# Draining


@pytest.mark.parametrize("asked_by", [drained, card_says_draining])
@pytest.mark.parametrize("state", STATES)
def test_draining_is_for_good(asked_by, state):
    """
    Also for a group that was taken for dead meanwhile and answers again.
    """
    leaving = asked_by(member(state, given=card()))
    evidence = (same_card, one_failure, stale_and_unanswered, drained, card_says_draining, healthy)

    for order in itertools.permutations(evidence, 3):
        group = leaving
        for each in order:
            group = each(group)
        assert probed(group, healthy=True).entry.state is DRAINING


def test_a_group_that_was_found_draining_is_leaving():
    """
    An earlier life of the control plane had it drain.
    """
    assert known(member(DRAINING).entry).is_leaving
    assert not known(member(READY).entry).is_leaving


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (member(DRAINING, given=card(), is_leaving=True), True),
        (member(DRAINING, given=card(), is_leaving=True, was_told=True), False),
        (member(DRAINING, given=card(state="draining"), is_leaving=True), False),
        (member(DRAINING, given=None, is_leaving=True), False),
        (member(READY, given=card()), False),
    ],
)
def test_a_leaving_process_is_told_once(group, expected):
    """
    And not at all if its card says that it knows.
    """
    assert group.is_to_be_told is expected


# Released memory


def test_a_released_group_is_no_candidate_however_well_it_is():
    """
    Also if it was taken for dead meanwhile, or its card was first seen by a later control plane.
    """
    released = member(DEAD, given=card(state="released"))

    assert healthy(released).entry.state is RELEASED
    assert healthy(card_says_released(member(STARTING))).entry.state is RELEASED


def test_a_group_that_has_its_memory_again_serves_once_it_answers():
    """
    Until then it is asked only if nobody else can.
    """
    again = same_card(card_says_released(member(READY)))

    assert again.entry.state is SUSPECT
    assert healthy(again).entry.state is READY


# Health


@pytest.mark.parametrize("state", STATES)
def test_an_answer_forgets_failures_and_the_wait(state):
    """
    Whatever the group's state.
    """
    well = healthy(member(state, num_failures=1, asked_ns=7))

    assert (well.num_failures, well.asked_ns) == (0, None)


def test_a_starting_group_may_fail_as_often_as_it_likes():
    """
    It was never a candidate.
    """
    group = member(STARTING)
    for _ in range(9):
        group = probed(group, healthy=False)

    assert group.entry.state is STARTING


def test_the_wait_for_an_answer_begins_with_the_first_probe():
    """
    A second one that is not answered either does not make it shorter.
    """
    group = asked(member(READY), 100)

    assert asked(one_failure(group), 200).asked_ns == 100


@pytest.mark.parametrize(
    ("asked_ns", "now_ns", "expected"),
    [(None, 9_000_000_000, False), (1, 2_000_000_000, False), (1, 2_000_000_001, True)],
)
def test_a_group_is_silent_after_two_seconds(asked_ns, now_ns, expected):
    """
    Of one probe, or of several that were not answered.
    """
    assert is_silent(member(READY, asked_ns=asked_ns), now_ns) is expected


@pytest.mark.parametrize(("began_ns", "expected_ns"), [(200, 100), (100, None)])
def test_a_probe_that_asked_nobody_is_not_waited_for(began_ns, expected_ns):
    """
    One before it still is.
    """
    group = asked(asked(member(READY), 100), began_ns)

    assert not_asked(group, began_ns).asked_ns == expected_ns
