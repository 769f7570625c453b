"""Of which groups figures are judged at all: of those that serve.  See test_freshness.py."""

import pytest

from balancer.freshness import FreshnessChange
from shm.group_table import GroupState
from tests.balancer.loads import GROUP_EPOCH, MAX_LOAD_AGE_NS, group, holding, observe

SERVES = (GroupState.READY, GroupState.SUSPECT, GroupState.DRAINING)
LATE_NS = MAX_LOAD_AGE_NS + 1
WENT_STALE = FreshnessChange(0, False, LATE_NS)


@pytest.fixture(name="controller")
def _controller(controller):
    """Groups 1 and 2 are young: the tests look at group 0."""
    observe(controller, *(holding(rank, 1 << 40, sampled_ns=1 << 40) for rank in (1, 2)))
    return controller


def fresh(controller):
    return controller.figures_are_fresh(0)


@pytest.mark.parametrize("state", GroupState)
def test_only_a_group_that_serves_can_be_stale(controller, state):
    """
    One that is dead or starts reports nothing, and that is no news.
    """
    observe(controller, holding(0, 50))
    controller.observe_group(group(0, state))

    changes = controller.observe_time(LATE_NS)

    assert changes == ([WENT_STALE] if state in SERVES else [])
    assert controller.figures_are_stale(0) is (state in SERVES)
    assert not fresh(controller)


@pytest.mark.parametrize("row", [group(0, GroupState.DEAD), group(0, epoch=GROUP_EPOCH + 1)])
def test_a_stale_group_is_stale_no_more_when_its_life_is_over(controller, row):
    """
    Whoever counts stale groups comes back to zero, and it is not told that figures returned;
    nor are the figures of the next life.
    """
    observe(controller, holding(0, 50), now_ns=LATE_NS)
    assert controller.figures_are_stale(0)

    controller.observe_group(row)

    assert not controller.figures_are_stale(0)
    assert controller.observe_time(LATE_NS + 1) == []
    controller.observe_group(group(0, epoch=GROUP_EPOCH + 1))
    reborn = holding(0, 3, sampled_ns=LATE_NS)._replace(group_epoch=GROUP_EPOCH + 1)
    assert observe(controller, reborn, now_ns=LATE_NS) == []
    assert fresh(controller)


@pytest.mark.parametrize("state", [GroupState.DEAD, GroupState.STARTING])
def test_reports_of_a_group_that_does_not_serve_are_not_judged(controller, state):
    """
    Neither young nor old ones.
    """
    controller.observe_group(group(0, state))

    for sampled_ns in (0, LATE_NS):
        assert observe(controller, holding(0, 50, sampled_ns=sampled_ns), now_ns=LATE_NS) == []
    assert not fresh(controller)


@pytest.mark.parametrize(("now_ns", "changes"), [(1, []), (LATE_NS, [WENT_STALE])])
def test_a_group_that_was_taken_for_dead_and_serves_again_is_judged_again(
    controller, now_ns, changes
):
    """
    By the report that it has.
    """
    observe(controller, holding(0, 50))
    controller.observe_group(group(0, GroupState.DEAD))
    assert not fresh(controller)

    controller.observe_group(group(0))

    assert controller.observe_time(now_ns) == changes
    assert fresh(controller) is not bool(changes)


def test_a_table_that_is_published_again_changes_no_judgement(controller):
    """
    A fresh group stays fresh, without a look.
    """
    observe(controller, holding(0, 50))

    for state in (GroupState.READY, GroupState.SUSPECT, GroupState.READY):
        controller.observe_group(group(0, state))
        assert (fresh(controller), controller.loads()[0].tokens) == (True, 50)
