"""Clients that leave: everything of theirs ends with them, wherever their request is."""

import asyncio

import pytest

from balancer.in_flight import InFlight
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.failures import EVENT, FAILURES, lose, questions, refuse, row
from tests.router.fakes import turns, until
from tests.router.groups import charge_of, silent_port
from tests.router.site import Site

pytestmark = pytest.mark.anyio


def flying(door, dp_rank=0):
    """What the ledger holds to be on its way to the group."""
    return door.controller.ledger.in_flight(dp_rank)


# At the only group


async def test_a_client_that_leaves_while_it_waits_cancels_its_request(group, door, client):
    """
    The group sees its connection close; the charge is the group's to count, and
    it is asked whether it has.
    """
    client.send(post())
    received = await group.next_request()

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert flying(door) == InFlight(charge_of(received), 1)
    assert (door.meters.disconnects, door.meters.responses) == (1, {499: 1})
    await until(lambda: len(group.settled) == 1)


async def test_a_client_that_leaves_while_it_reads_cancels_its_stream(group, door, client):
    """
    The group sees its connection close in the middle of the stream.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD + chunk(b"data: {}\n\n"))
    await client.head()

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert door.meters.disconnects == 1


async def test_a_client_that_leaves_while_it_reads_nothing_cancels_its_stream(group, door):
    """
    Also while the stream is paused because the client was too slow.
    """
    async with door.client(limit=1024) as client:
        client.send(post())
        received = await group.next_request()
        received.write(SSE_HEAD + chunk(b"data: {}\n\n" * 1000) * 2000)
        await client.head()
        await turns(100)
        assert received.unsent_bytes

        client.leave()

        await until(lambda: received.connection_is_lost)
        await door.all_released()


async def test_everything_that_was_pipelined_is_given_up_with_the_client(group, door, client):
    """
    What waits its turn is never dispatched.
    """
    client.send(post() * 5)
    received = await group.next_request()

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert len(group.received) == 1


async def test_a_client_that_leaves_while_the_door_connects_takes_its_charge_along(
    door, client, house
):
    """
    Nothing was sent, so nothing stays in flight.
    """
    with silent_port() as port:
        house.publish_table(GroupEntry(0, GroupState.READY, 12, "127.0.0.1", port))
        client.send(post())
        await until(lambda: door.num_assigned == 1)
        assert flying(door).requests == 1

        client.leave()

        await door.all_released()
    assert flying(door) == InFlight(0, 0)
    assert door.cell().returned_requests == 1


async def test_a_client_that_leaves_is_released_once_at_every_turn_of_the_loop(group, door):
    """
    Wherever the exchange is when its client leaves, the books balance, and the
    group is asked about each request that was written.
    """
    for number_of_turns in range(40):
        async with door.client() as client:
            client.send(post())
            for _ in range(number_of_turns):
                await asyncio.sleep(0)
            client.leave()
        await door.all_released()
    await until(lambda: len(group.settled) == len(group.received) > 0)
    arrived = InFlight(sum(charge_of(each) for each in group.received), len(group.received))
    await until(lambda: flying(door) == arrived)


# Between groups


STAGES = {
    "waits for a head": b"",
    "waits for the rest of a head": b"HTTP/1.1 200 OK\r\n",
    "waits for the first byte": SSE_HEAD,
    "reads": SSE_HEAD + EVENT,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fails", [None, *FAILURES])
async def test_a_client_that_leaves_takes_everything_along(fails, stage):
    """
    At the first group and at the second: each charge is released once, and asked about if
    it was written and not answered.
    """
    async with Site.opened(2) as site:
        rank = int(fails is not None)
        site.groups[0].respond = fails
        site.client.send(post())
        received = await site.groups[rank].next_request()
        received.write(STAGES[stage])
        await turns(5)

        site.client.leave()

        await until(lambda: received.connection_is_lost)
        await site.all_released()
        expected = [int(fails is lose), 0]
        expected[rank] += int(SSE_HEAD not in STAGES[stage])
        assert await questions(site) == expected
        assert site.door.meters.responses == {200 if stage == "reads" else 499: 1}
        assert (site.num_received, site.door.meters.disconnects) == ([1, rank], 1)


@pytest.mark.parametrize("fails", [None, *FAILURES])
async def test_a_client_that_leaves_while_the_door_connects_costs_nothing(fails):
    """
    To the first group, or to the second.
    """
    async with Site.opened(2) as site:
        rank = int(fails is not None)
        site.groups[0].respond = fails
        with silent_port() as port:
            site.present(row(rank, port))
            site.client.send(post())
            await until(lambda: site.door.cell(rank).dispatched_requests == 1)
            await until(lambda: site.door.num_assigned == 1)

            site.client.leave()

            await site.all_released()
        assert site.door.cell(rank).returned_requests == 1
        assert await questions(site) == [int(fails is lose), 0]


async def test_a_client_that_leaves_does_not_close_a_connection_that_others_use_by_now():
    """
    The one that carried the refusal of its request carries somebody else's.
    """
    async with Site.opened(2) as site:
        with silent_port() as port:
            site.present(row(1, port))
            site.client.send(post())
            refuse(await site.groups[0].next_request())
            await until(lambda: site.door.cell(1).dispatched_requests == 1)
            async with site.door.client() as other:
                other.send(post())
                received = await site.groups[0].next_request()

                site.client.leave()
                await until(lambda: site.door.cell(1).returned_requests == 1)
                received.answer(b"other")

                assert (await other.response()).body == b"other"
            assert len(site.groups[0].connections) == 1
        await site.all_released()


@pytest.mark.parametrize("fails", FAILURES)
async def test_a_client_may_leave_at_any_turn_of_the_loop(fails):
    """
    Wherever the request is between the groups, the books balance.
    """
    async with Site.opened(2) as site:
        site.groups[0].respond = fails
        for number_of_turns in range(60):
            async with site.door.client() as client:
                client.send(post())
                for _ in range(number_of_turns):
                    await asyncio.sleep(0)
                client.leave()
            await site.door.all_released()
        await site.all_released()
        asked = await questions(site)
        assert asked[1] == site.num_received[1] > 0
        assert asked[0] <= site.num_received[0]
