"""The breakers of engines and groups together, and who is assigned past them."""

import random

import pytest

from balancer.breaker import BreakerRules, BreakerState
from balancer.breakers import UNREACHABLE_IN_A_ROW, Breakers, assign_around
from balancer.errors import NoCandidate
from balancer.load import RequestShape
from tests.balancer.loads import ANY_REQUEST

CLOSED, OPEN, HALF_OPEN = BreakerState
RULES = BreakerRules(3, 1, 1_000, 10_000)
HOMES = {0: "one engine", 1: "one engine", 2: "another"}


@pytest.fixture(name="told")
def _told():
    return []


@pytest.fixture(name="breakers")
def _breakers(told):
    breakers = Breakers(RULES, random.Random(0), told.append)
    breakers.observe_homes(HOMES)
    return breakers


def refuse(breakers, dp_rank, times=UNREACHABLE_IN_A_ROW, now_ns=0):
    for _ in range(times):
        breakers.passage(dp_rank).unreachable(now_ns, "refused")


def fail(breakers, dp_rank, times=3, now_ns=0):
    for _ in range(times):
        passage = breakers.passage(dp_rank)
        passage.failed(now_ns, "it answered 500")
        passage.close(now_ns, is_complete=True)


def test_who_cannot_be_reached_is_avoided_with_all_its_ranks_at_once(breakers, told):
    """
    After two connections, to whichever rank; the other engine is not.
    """
    breakers.passage(0).unreachable(0, "refused")
    assert breakers.avoided(0) == ()

    breakers.passage(1).unreachable(0, "refused")

    assert breakers.avoided(0) == {0, 1}
    assert [(change.dp_ranks, change.is_of_engine) for change in told] == [((0, 1), True)]
    assert [breakers.state(rank) for rank in HOMES] == [OPEN, OPEN, CLOSED]


def test_a_rank_that_answers_badly_is_avoided_alone(breakers, told):
    """
    Its neighbours in the same engine are well.
    """
    fail(breakers, 1)

    assert breakers.avoided(0) == {1}
    assert [(change.dp_ranks, change.is_of_engine) for change in told] == [((1,), False)]


def test_a_threshold_of_one_holds_for_connections_too():
    """
    They need no more failures than answers do.
    """
    breakers = Breakers(RULES._replace(max_in_a_row=1), random.Random(0), lambda change: None)
    breakers.observe_homes(HOMES)

    refuse(breakers, 0, times=1)

    assert breakers.avoided(0) == {0, 1}


def test_a_connection_that_was_made_ends_the_row(breakers):
    """
    One that was kept from before proves nothing of new ones.
    """
    breakers.passage(0).unreachable(0, "refused")
    kept = breakers.passage(0)
    kept.written()
    kept.close(0, is_complete=True)
    made = breakers.passage(1)
    made.reached(0)
    breakers.passage(0).unreachable(0, "refused")
    assert breakers.avoided(0) == ()

    breakers.passage(0).unreachable(0, "refused")

    assert breakers.avoided(0) == {0, 1}


@pytest.mark.parametrize("end", ["close", "written", "reached"])
def test_an_engine_that_is_tried_is_tried_by_one_request(breakers, end):
    """
    Whatever ends it, the next one may try then; and a connection is all it takes.
    """
    refuse(breakers, 0)
    assert breakers.avoided(2_000) == set()
    probe = breakers.passage(1)
    assert breakers.avoided(2_000) == {0, 1}

    if end == "close":
        probe.close(2_000, is_complete=False)
    elif end == "written":
        probe.written()
    else:
        probe.reached(2_000)

    assert not breakers.avoided(2_000)
    assert breakers.state(0) is (CLOSED if end == "reached" else HALF_OPEN)


def test_a_slot_is_given_back_once(breakers):
    """
    Closing twice, or after the answer, takes nobody else's.
    """
    fail(breakers, 1)
    assert breakers.avoided(2_000) == set()
    first = breakers.passage(1)
    first.close(2_000, is_complete=False)
    second = breakers.passage(1)

    first.close(2_000, is_complete=False)

    assert breakers.avoided(2_000) == {1}
    second.answered(2_000)
    assert breakers.avoided(2_000) == ()


def test_an_answer_that_tells_of_load_counts_for_nothing(breakers):
    """
    Neither as a failure nor, in a row of those, as a success.
    """
    fail(breakers, 1, times=2)
    passage = breakers.passage(1)
    passage.refrain()
    passage.close(0, is_complete=True)
    fail(breakers, 1, times=1)

    assert breakers.avoided(0) == {1}


def test_a_failure_is_counted_once(breakers):
    """
    An answer of 500 that breaks off, too.
    """
    for _ in range(2):
        passage = breakers.passage(1)
        passage.failed(0, "it answered 500")
        passage.failed(0, "its connection was lost")
        passage.close(0, is_complete=False)

    assert breakers.avoided(0) == ()


def test_a_group_that_moves_or_goes_leaves_nothing_behind(breakers):
    """
    Whoever is at its number next begins anew; what others have found out stays.
    """
    refuse(breakers, 0)
    fail(breakers, 2)
    late = breakers.passage(0)

    breakers.observe_homes({0: "a third", 2: "another"})

    assert breakers.avoided(0) == {2}
    late.close(0, is_complete=False)
    breakers.observe_homes({})
    assert breakers.avoided(0) == ()
    assert breakers.passage(2) is None


def test_a_breaker_that_went_with_its_group_tells_nothing(breakers, told):
    """
    Requests of it may still end.
    """
    late = [breakers.passage(2) for _ in range(3)]
    breakers.observe_homes({0: "one engine"})

    for passage in late:
        passage.failed(0, "its connection was lost")

    assert told == []
    assert breakers.avoided(0) == ()


def test_a_group_that_was_seen_well_may_be_tried_at_once(breakers):
    """
    Both of its breakers.
    """
    refuse(breakers, 0)
    fail(breakers, 1)

    breakers.well_again(1, "it answers for its health")

    assert breakers.state(1) is HALF_OPEN
    assert breakers.avoided(0) == set()


def test_the_avoided_are_chosen_only_if_nobody_else_can_be(controller):
    """
    The controller has three groups.
    """
    assert assign_around(controller, ANY_REQUEST, (), {0, 1}).assignment.dp_rank == 2
    chosen = assign_around(controller, ANY_REQUEST, {2}, {0, 1})

    assert chosen.is_last_resort
    assert chosen.assignment.dp_rank in (0, 1)
    with pytest.raises(NoCandidate):
        assign_around(controller, ANY_REQUEST, {0, 1, 2}, {0, 1})


def test_a_group_that_was_asked_for_is_asked_for(controller):
    """
    And that is no last resort.
    """
    chosen = assign_around(controller, RequestShape(10, dp_rank=1), (), {1})

    assert (chosen.assignment.dp_rank, chosen.is_last_resort) == (1, False)


def test_an_answer_on_a_connection_that_was_kept_closes_a_half_open_breaker(breakers):
    """
    Where all connections are kept, no other probe would ever be made.
    """
    refuse(breakers, 0)
    now_ns = 2_000
    breakers.avoided(now_ns)
    assert breakers.state(0) is HALF_OPEN

    kept = breakers.passage(0)
    kept.written()
    kept.answered(now_ns)

    assert breakers.state(0) is CLOSED
