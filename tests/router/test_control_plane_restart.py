"""What a membership makes of the table that an earlier life of it has left."""

import asyncio

import httpx
import pytest

from shm.group_table import GroupState

STARTING, READY, DEAD = (GroupState(word) for word in ("starting", "ready", "dead"))


@pytest.mark.anyio
async def test_a_new_control_plane_keeps_what_it_finds(keeper):
    """
    A ready group stays ready through the restart, in its epoch, at every publication.
    """
    keeper.leave_card(0)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    sequence = keeper.reader.current_sequence

    reborn = keeper.another()
    reborn.look()

    assert keeper.published == [READY, STARTING]
    assert keeper.reader.current_sequence == sequence
    keeper.leave_card(0, pid=4_194_304)
    reborn.look()
    assert (keeper.entries[0].state, keeper.entries[0].epoch) == (DEAD, 5)


@pytest.mark.anyio
async def test_a_group_that_came_back_while_the_control_plane_was_away_is_a_new_life(keeper):
    """
    Its epoch moves on, so that charges of the old one end.
    """
    keeper.leave_card(0)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    keeper.leave_card(0, epoch=6, port=1002)

    reborn = keeper.another()
    reborn.look()

    assert (keeper.entries[0].state, keeper.entries[0].epoch) == (STARTING, 6)
    keeper.health.answers = {1002: 200}
    await keeper.keep_until(READY, STARTING, membership=reborn)


@pytest.mark.anyio
async def test_an_answer_of_a_former_life_changes_nothing(keeper):
    """
    A probe that was under way while the group was reborn speaks of the old one.
    """
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(request):
        asked.set()
        await answer.wait()
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as client:
        membership = keeper.another(client)
        keeper.leave_card(0)
        membership.look()
        probing = asyncio.create_task(membership.probe(0))
        await asked.wait()
        keeper.leave_card(0, epoch=6)
        membership.look()
        answer.set()
        await probing

    assert keeper.published == [STARTING, STARTING]
    assert keeper.entries[0].epoch == 6
