from itertools import pairwise

from router.front_door.absences import Absences
from shm.group_table import GroupEntry, GroupState

S = 1_000_000_000


def row(dp_rank, state, **fields):
    return GroupEntry(dp_rank, GroupState(state), 1, **fields)


def test_a_group_is_waited_for_from_when_it_is_missed():
    """
    For as long as may be, and then no more.
    """
    absences = Absences(60.0)
    absences.observe([row(0, "dead")], 100 * S)

    assert absences.may_end(None, 159 * S)
    assert absences.may_end(0, 159 * S)
    assert not absences.may_end(None, 160 * S)
    assert not absences.may_end(0, 160 * S)


def test_a_group_that_starts_and_fails_is_missed_from_the_first_time():
    """
    Only one that has served in between is missed anew.
    """
    absences = Absences(60.0)
    for second, state in ((0, "dead"), (30, "starting"), (50, "dead")):
        absences.observe([row(0, state)], second * S)
    assert not absences.may_end(0, 60 * S)

    for second, state in ((61, "ready"), (62, "suspect"), (70, "draining")):
        absences.observe([row(0, state)], second * S)
    assert absences.may_end(0, 129 * S)


def test_nobody_is_missed_who_serves():
    """
    Nor one of whom nobody has heard.
    """
    absences = Absences(60.0)
    absences.observe([row(0, "ready"), row(1, "starting")], 0)

    assert not absences.may_end(0, 1)
    assert not absences.may_end(7, 1)
    assert absences.may_end(1, 1)


def test_backends_and_a_limit_of_zero_are_not_waited_for():
    """
    Whether they come back nobody knows; or nobody wants to know.
    """
    absences = Absences(60.0)
    absences.observe([row(0, "dead", engine="vllm")], 0)
    assert not absences.may_end(0, 1)

    none = Absences(0.0)
    none.observe([row(0, "dead")], 0)
    assert not none.may_end(0, 0)


def test_a_group_whose_memory_is_released_is_not_waited_for():
    """
    Only an operator ends that.  If its process ends, it is missed from then on.
    """
    absences = Absences(60.0)
    for second, state in ((0, "draining"), (1, "released")):
        absences.observe([row(0, state)], second * S)
    assert not absences.may_end(None, 1 * S)
    assert not absences.may_end(0, 1 * S)

    absences.observe([row(0, "dead")], 70 * S)
    assert absences.may_end(0, 129 * S)


def test_the_end_of_a_wait_is_seen_once():
    """
    Between two looks.
    """
    absences = Absences(60.0)
    absences.observe([row(0, "dead")], 0)
    looks = [0, 59 * S, 60 * S, 61 * S]

    assert [absences.has_given_up(a, b) for a, b in pairwise(looks)] == [
        False, True, False,
    ]  # fmt: skip
