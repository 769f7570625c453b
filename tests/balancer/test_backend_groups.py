"""
Groups that count no charges: their load is the books, and what they report beyond those.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.assignment import End
from balancer.controller import Controller
from balancer.ledger import InFlight, Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.minimum_tokens import MinimumTokens
from shm.board import Cell
from tests.balancer.loads import (
    EPOCH,
    GROUP_EPOCH,
    MAX_LOAD_AGE_NS,
    NUM_GROUPS,
    SLOT,
    group,
    holding,
    observe,
)

OTHER_DOOR = 1


def backend(dp_rank):
    return replace(group(dp_rank), engine="vllm")


@pytest.fixture(name="backends")
def _backends(controller):
    """All three groups of the controller are backends."""
    return _with_backends(controller)


def _with_backends(controller):
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(backend(dp_rank))
    return controller


def _made():
    """The same, for a test that is run many times over."""
    ledger = Ledger(
        slot=SLOT, epoch=EPOCH, num_front_doors=2, num_groups=NUM_GROUPS, note=lambda *_: None
    )
    policy = MinimumTokens(random.Random(0))
    return _with_backends(Controller(policy, ledger, NUM_GROUPS, random.Random(1), MAX_LOAD_AGE_NS))


def beyond(dp_rank, tokens, requests=0, sampled_ns=0):
    """A report: it tells what is held beyond the books, and accepts nothing."""
    return holding(dp_rank, tokens, requests, max_requests=1 << 62, sampled_ns=sampled_ns)


def test_the_load_is_the_book_and_what_is_beyond_it(backends):
    """
    Of both, tokens and requests; what is open has yet to be computed until it streams.
    """
    observe(backends, beyond(0, 300, 2), beyond(1, 900), beyond(2, 900))

    assignment = backends.assign(RequestShape(8))

    assert backends.loads()[0] == GroupLoad(0, 308, 0, 3, 0, 8)
    backends.streamed(assignment, 5)
    assert backends.loads()[0] == GroupLoad(0, 313, 0, 3, 0, 0)
    backends.release(assignment, End.UNCOUNTED)
    assert backends.loads()[0] == GroupLoad(0, 300, 0, 2, 0, 0)


def test_what_another_front_door_has_open_counts_at_once(backends):
    """
    Though the group's figures are fresh.
    """
    observe(backends, beyond(0, 300))

    backends.observe_cells(OTHER_DOOR, [(0, Cell(600, GROUP_EPOCH, 70, 1, 0, 0, 70, 1))])
    assert backends.loads()[0].tokens == 370

    backends.observe_cells(OTHER_DOOR, [(0, Cell(600, GROUP_EPOCH, 70, 1, 0, 0, 95, 1))])
    assert backends.loads()[0].tokens == 395


def test_a_report_that_is_too_old_adds_nothing_and_takes_nothing_away(backends):
    """
    The books stand alone then.
    """
    observe(backends, beyond(0, 300), beyond(1, 900), beyond(2, 900))
    backends.assign(RequestShape(8))

    backends.observe_time(MAX_LOAD_AGE_NS + 1)

    assert backends.loads()[0].tokens == 8


def test_a_charge_that_ended_is_in_flight_no_more(backends, board):
    """
    However many have ended: nothing piles up for a group that never accepts.
    """
    for _ in range(100):
        assignment = backends.assign(RequestShape(8))
        backends.release(assignment, End.UNCOUNTED)

    assert [backends.ledger.in_flight(rank) for rank in range(3)] == [InFlight(0, 0)] * 3
    assert sum(cell.returned_tokens for cell in board.values()) == 800
    assert all(cell.dispatched_tokens == cell.returned_tokens for cell in board.values())


def test_a_group_of_twice_the_weight_takes_twice_the_tokens(backends):
    """
    What it has counts half as much as elsewhere: elsewhere it counts double.
    """
    for dp_rank in (1, 2):
        backends.observe_group(replace(backend(dp_rank), load_factor=2.0))

    picked = [backends.assign(RequestShape(10)).dp_rank for _ in range(400)]

    assert [picked.count(dp_rank) for dp_rank in range(3)] == [200, 100, 100]


@given(data=st.data())
def test_every_open_token_counts_once_whatever_happens(data):
    """
    Dispatches, streams, ends, reports and time in any order: the load is what is open, and
    what was last reported if that is fresh; in flight are the open charges.
    """
    controller = _made()
    open_now, told, now_ns = [], [None] * 3, 0
    for _ in range(data.draw(st.integers(1, 30))):
        step = data.draw(st.sampled_from(("assign", "stream", "end", "report", "time")))
        if step == "assign":
            open_now.append([controller.assign(RequestShape(data.draw(st.integers(1, 50)))), 0])
        elif step == "stream" and open_now:
            chosen = data.draw(st.sampled_from(open_now))
            chosen[1] += 3
            controller.streamed(chosen[0], 3)
        elif step == "end" and open_now:
            ended = open_now.pop(data.draw(st.integers(0, len(open_now) - 1)))
            controller.release(ended[0], End.UNCOUNTED)
        elif step == "report":
            rank, tokens = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 99))
            observe(controller, beyond(rank, tokens, sampled_ns=now_ns), now_ns=now_ns)
            told[rank] = (tokens, now_ns)
        elif step == "time":
            now_ns += data.draw(st.integers(0, MAX_LOAD_AGE_NS))
            controller.observe_time(now_ns)
        controller.check_integrity()
        for rank, load in enumerate(controller.loads()):
            mine = [(a, n) for a, n in open_now if a.dp_rank == rank]
            fresh = told[rank] is not None and now_ns - told[rank][1] <= MAX_LOAD_AGE_NS
            reported = told[rank][0] if fresh else 0
            assert load.tokens == reported + sum(a.charge_tokens + n for a, n in mine)
            charges = sum(a.charge_tokens for a, _ in mine)
            assert controller.ledger.in_flight(rank) == (charges, len(mine))
