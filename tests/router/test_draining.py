import signal
from dataclasses import replace

import pytest

from shm.group_table import GroupState
from tests.router.fakes import soon, turns, until

STARTING, READY, DRAINING, DEAD = (
    GroupState(word) for word in ("starting", "ready", "draining", "dead")
)


@pytest.mark.anyio
async def test_a_group_drains_in_the_table_before_its_process_is_told(keeper, seen_when_told):
    """
    So that no request is on its way to somebody who leaves.
    """
    await keeper.both_ready()

    entry = keeper.membership.drain(0)

    await until(lambda: seen_when_told)
    assert seen_when_told == [[DRAINING, READY]]
    assert (entry.state, entry.epoch) == (DRAINING, 5)


@pytest.mark.anyio
async def test_a_process_is_told_to_drain_once(keeper, seen_when_told):
    """
    A second signal would cut its requests.
    """
    await keeper.both_ready()

    for _ in range(3):
        keeper.membership.drain(0)
        keeper.membership.look()
        await turns()

    assert len(seen_when_told) == 1


@pytest.mark.anyio
async def test_only_the_process_of_that_group_is_told(keeper, leader):
    """
    By SIGTERM.
    """
    keeper.leave_card(0)
    keeper.leave_card(1, port=1001, pid=leader.pid)
    keeper.health.answers = {1000: 200, 1001: 200}
    await keeper.keep_until(READY, READY)

    keeper.membership.drain(1)

    assert await soon(leader.wait()) == -signal.SIGTERM


@pytest.mark.anyio
async def test_a_card_that_says_draining_makes_its_group_drain(keeper, seen_when_told):
    """
    Somebody else has told its process, which is not told again.
    """
    await keeper.both_ready()
    keeper.leave_card(0, state="draining")

    keeper.membership.look()
    await keeper.membership.probe(0)
    await turns()

    assert (keeper.published, seen_when_told) == ([DRAINING, READY], [])


@pytest.mark.anyio
async def test_a_drain_that_a_former_control_plane_began_is_ended(keeper, leader):
    """
    It had told the table, and not yet the process.
    """
    keeper.leave_card(0, pid=leader.pid)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    draining = tuple(
        replace(entry, state=DRAINING) if entry.dp_rank == 0 else entry for entry in keeper.entries
    )
    keeper.house.publish_table(*draining)

    keeper.another().look()

    assert keeper.published == [DRAINING, STARTING]
    assert await soon(leader.wait()) == -signal.SIGTERM


@pytest.mark.anyio
async def test_a_process_that_was_told_meanwhile_is_not_told_again(keeper, seen_when_told):
    """
    The card is looked at once more before.
    """
    await keeper.both_ready()
    keeper.leave_card(0, state="draining")

    entry = keeper.membership.drain(0)
    await turns()

    assert (entry.state, seen_when_told) == (DRAINING, [])


@pytest.mark.anyio
async def test_a_life_that_has_begun_meanwhile_is_not_drained(keeper, seen_when_told):
    """
    Another one was meant.
    """
    await keeper.both_ready()
    keeper.leave_card(0, epoch=6)

    entry = keeper.membership.drain(0)
    await turns()

    assert (entry.state, entry.epoch, seen_when_told) == (STARTING, 6, [])


@pytest.mark.anyio
async def test_a_leader_that_closes_its_connections_is_draining_still(keeper, leader):
    """
    Its card is gone and it answers no more; it is dead when its process has ended.
    """
    keeper.leave_card(0, pid=leader.pid, state="draining")
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(DRAINING, STARTING)
    keeper.house.instance.card(0).unlink()
    keeper.health.answers = {}

    for _ in range(3):
        keeper.membership.look()
        await keeper.membership.probe(0)

    assert keeper.published == [DRAINING, STARTING]
    leader.kill()
    await until(lambda: keeper.published == [DEAD, STARTING])
