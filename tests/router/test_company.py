"""Groups whose ranks live and end together, as the control plane keeps and tells of them."""

import pytest

from shm.group_table import GroupState
from tests.router.fakes import until
from tests.router.keeper import Keeper

pytestmark = pytest.mark.anyio
STARTING, READY, DEAD, DRAINING = map(GroupState, ("starting", "ready", "dead", "draining"))
RELEASED = GroupState.RELEASED


@pytest.fixture
async def keeper():
    """Of two groups that are one set."""
    async with Keeper.built(ranks_are_a_set=True) as built:
        yield built


async def test_no_group_is_ready_before_all_are(keeper):
    """
    The first would else get all that waits.
    """
    keeper.leave_card(0)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(STARTING, STARTING)
    await keeper.membership.probe(0)
    assert keeper.published == [STARTING, STARTING]

    keeper.leave_card(1, port=1001)
    keeper.health.answers |= {1001: 200}

    await keeper.keep_until(READY, READY)


async def test_when_a_rank_has_died_nothing_is_sent_to_the_others(keeper, leader):
    """
    At once; the row of the living is not dead, so its streams are not cut.
    """
    keeper.leave_card(0, pid=leader.pid)
    keeper.leave_card(1, port=1001)
    keeper.health.answers = {1000: 200, 1001: 200}
    await keeper.keep_until(READY, READY)

    leader.kill()

    await until(lambda: keeper.published == [DEAD, STARTING])
    await keeper.membership.probe(1)
    assert keeper.published == [DEAD, STARTING]


async def test_when_all_have_begun_anew_all_serve(keeper, leader):
    """
    In their next lives.
    """
    await keeper.both_ready()
    keeper.leave_card(0, epoch=6, port=1002)
    keeper.health.answers |= {1002: None}
    keeper.membership.look()
    assert keeper.published == [STARTING, STARTING]

    keeper.leave_card(1, epoch=6, port=1003)
    keeper.health.answers |= {1002: 200, 1003: 200}

    await keeper.keep_until(READY, READY)
    assert [entry.epoch for entry in keeper.entries] == [6, 6]


async def test_when_one_is_told_to_drain_all_are(keeper, seen_when_told):
    """
    Each process once, and the table says so before: who has drained waits for the others.
    """
    await keeper.both_ready()

    assert keeper.membership.drain(1).state is DRAINING

    await until(lambda: len(seen_when_told) == 2)
    keeper.membership.look()
    assert seen_when_told == [[DRAINING, DRAINING]] * 2


async def test_a_rank_that_drains_by_itself_takes_the_others_along(keeper, seen_when_told):
    """
    Its card says so; it was told already.
    """
    await keeper.both_ready()

    keeper.leave_card(1, port=1001, state="draining")
    keeper.membership.look()

    assert keeper.published == [DRAINING, DRAINING]
    await until(lambda: len(seen_when_told) == 1)


async def test_one_that_has_released_its_memory_keeps_nobody_from_serving(keeper, seen_when_told):
    """
    Its process is well.  It drains with the others, whose end is its own.
    """
    await keeper.both_ready()
    keeper.leave_card(0, state="released")
    keeper.membership.look()
    assert keeper.published == [RELEASED, READY]

    keeper.membership.drain(1)

    assert keeper.published == [DRAINING, DRAINING]
    await until(lambda: len(seen_when_told) == 2)


async def test_groups_that_are_no_set_have_nothing_to_do_with_each_other():
    """
    The plain case beside it.
    """
    async with Keeper.built() as keeper:
        await keeper.both_ready()
        keeper.leave_card(1, port=1001, state="draining")
        keeper.membership.look()

        assert keeper.published == [READY, DRAINING]
