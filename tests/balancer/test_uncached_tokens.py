"""W of a group: prompt tokens that it has yet to compute, as the controller believes."""

import random
from itertools import count

import pytest

from balancer.assignment import End
from balancer.controller import Controller
from balancer.cost_model import CostFit
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.methods import make_policy
from shm.group_table import GroupState
from tests.balancer.loads import GROUP_EPOCH, MAX_LOAD_AGE_NS, NUM_GROUPS, group, holding, observe

_times = count(1)
LATE_NS = MAX_LOAD_AGE_NS + 1


def uncached(controller):
    return [load.uncached_tokens for load in controller.loads()]


def test_what_waits_in_the_group_and_what_is_on_its_way_are_to_be_computed(controller):
    """
    Reported tokens, and charges in flight.
    """
    observe(controller, *(holding(r, 500, 3, waiting_uncached_tokens=60) for r in range(3)))
    taken = controller.assign(RequestShape(8)).dp_rank

    assert uncached(controller) == [68 if rank == taken else 60 for rank in range(NUM_GROUPS)]


@pytest.fixture(name="by_cost")
def _by_cost(board):
    """A front door whose method fits the steps' cost, and so sees whether groups wait."""
    note = board.__setitem__
    ledger = Ledger(slot=0, epoch=1, num_front_doors=2, num_groups=NUM_GROUPS, note=note)
    rng, costs = random.Random(0), CostFit()
    policy = make_policy("min_step_cost", rng, costs)
    made = Controller(policy, ledger, NUM_GROUPS, rng, MAX_LOAD_AGE_NS, costs=costs)
    for dp_rank in range(NUM_GROUPS):
        made.observe_group(group(dp_rank))
    return made


def test_what_a_step_computes_is_waited_for_wherever_groups_wait_for_each_other(by_cost):
    """
    Whoever is sent anywhere begins after it.  Alone, a group that computes is busy for itself.
    """
    alike, unlike = (10, 10, 10), (10, 20, 30)
    computing = {"waiting_uncached_tokens": 60, "computing_tokens": 50}
    for times, expected in ((unlike, 60), (alike, 10), (unlike, 60)):
        for number in range(1, 100):
            figures = {"num_steps": number, "sampled_ns": next(_times), **computing}
            reports = (holding(r, 0, step_time_ns=times[r], **figures) for r in range(NUM_GROUPS))
            observe(by_cost, *reports)

        assert uncached(by_cost) == [expected] * NUM_GROUPS


def test_without_a_report_own_requests_are_to_be_computed_until_they_produce(controller):
    """
    Or end, in whatever way: once each.
    """
    for dp_rank in (0, 1):
        controller.observe_group(group(dp_rank, GroupState.DEAD))
    first, second, third = (controller.assign(RequestShape(size)) for size in (10, 200, 3000))
    assert uncached(controller)[2] == 3210

    controller.streamed(first, 1)
    controller.streamed(first, 1)
    assert uncached(controller)[2] == 3200
    controller.release(first, End.REACHED)
    controller.release(second, End.UNANSWERED)
    assert uncached(controller)[2] == 3000
    controller.release(third, End.NEVER_SENT)
    assert uncached(controller)[2] == 0


def test_figures_that_go_stale_leave_what_own_requests_have_to_compute(controller):
    """
    A silent group must not look as if it computed at once.
    """
    observe(controller, *(holding(r, 0, waiting_uncached_tokens=70) for r in range(NUM_GROUPS)))
    taken = controller.assign(RequestShape(8)).dp_rank
    controller.observe_time(LATE_NS)

    assert uncached(controller) == [8 if rank == taken else 0 for rank in range(NUM_GROUPS)]


def test_a_new_life_of_a_group_has_nothing_to_compute(controller):
    """
    And what ends of the old one later changes nothing.
    """
    assignments = [controller.assign(RequestShape(8)) for _ in range(NUM_GROUPS)]
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(group(dp_rank, epoch=GROUP_EPOCH + 1))
    newer = controller.assign(RequestShape(5))
    for assignment in assignments:
        controller.release(assignment, End.REACHED)

    assert sum(uncached(controller)) == uncached(controller)[newer.dp_rank] == 5
