"""Groups that the table gives up: what they had written still counts, what is silent is lost."""

import contextlib

import orjson
import pytest

from shm.group_table import GroupState
from tests.router.clients import LAST_CHUNK, SSE_HEAD, post
from tests.router.failures import EVENT, questions, refuse, row
from tests.router.fakes import soon, turns, until
from tests.router.groups import silent_port
from tests.router.site import Site

pytestmark = pytest.mark.anyio

GONE = {
    "dead": {"state": GroupState.DEAD},
    "in a new life": {"epoch": 12},
    "in a new life that starts": {"epoch": 12, "state": GroupState.STARTING},
}


def give_up(site, dp_rank, how):
    """Publish that the group is gone, and let the door look."""
    changed = {"port": site.groups[dp_rank].port} | GONE[how]
    site.present(row(dp_rank, **changed))
    site.door.door.tick()


def pass_ticks(site, number=8):
    """As time passes."""
    for _ in range(number):
        site.door.door.tick()


async def begun_stream(site):
    """A stream of group 0 of which its client has had one event."""
    site.client.send(post())
    received = await site.groups[0].next_request()
    received.write(SSE_HEAD + EVENT)
    await site.client.head()
    await site.client.exactly(len(EVENT))
    return received


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n", SSE_HEAD])
async def test_requests_that_wait_for_a_group_that_is_gone_are_retried(how, begun):
    """
    Though their connections stand, as those of a stopped process do.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(begun)
        await turns()

        give_up(site, 0, how)
        pass_ticks(site)

        (await site.groups[1].next_request()).answer(b"other")
        assert (await site.client.response()).body == b"other"
        await until(lambda: received.connection_is_lost)
        await site.all_released()
        assert site.door.meters.retries == {"lost": 1}
        uncertain = begun != SSE_HEAD
        await questions(site)
        outcome = "seen" if how == "dead" else "epoch_over"
        assert site.door.meters.settlements == ({outcome: 1} if uncertain else {})


@pytest.mark.parametrize("how", GONE)
async def test_streams_of_a_group_that_is_gone_end_with_an_error_event(how):
    """
    And with the end of the answer.
    """
    async with Site.opened(2) as site:
        await begun_stream(site)

        give_up(site, 0, how)
        pass_ticks(site)

        rest = await site.client.chunked_rest()
        assert rest.endswith(b"\n\n\r\n" + LAST_CHUNK)
        told = rest.partition(b"data: ")[2].partition(b"\n\n")[0]
        assert orjson.loads(told)["error"]["code"] == "dp_group_lost"
        await site.all_released()
        assert site.num_received == [1, 0]


@pytest.mark.parametrize("how", GONE)
async def test_a_connection_that_is_being_made_to_a_group_that_is_gone_is_given_up(how):
    """
    At once, not when connecting has taken too long.
    """
    async with Site.opened(2) as site:
        with silent_port() as port:
            site.present(row(0, port))
            site.client.send(post())
            await until(lambda: site.door.num_assigned == 1)

            site.present(row(0, **({"port": port} | GONE[how])))
            site.door.door.dispatcher.tick()

            received = await soon(site.groups[1].next_request(), 3.0)  # connecting may take 5 s
            received.answer()
            assert (await site.client.response()).status == 200
        await site.all_released()
        assert site.door.meters.retries == {"unreachable": 1}


@pytest.mark.parametrize("state", [GroupState.SUSPECT, GroupState.DRAINING, GroupState.READY])
async def test_streams_of_a_group_that_only_gets_no_more_go_on(state):
    """
    A suspect or draining group finishes what it has.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD + EVENT)
        await site.client.head()

        site.present(row(0, site.groups[0].port, state))
        site.door.door.dispatcher.tick()
        await turns()
        received.write(LAST_CHUNK)

        assert await site.client.exactly(len(EVENT + LAST_CHUNK)) == EVENT + LAST_CHUNK
        await site.all_released()


@pytest.mark.parametrize("state", [GroupState.READY, GroupState.DRAINING])
async def test_requests_of_a_group_that_was_found_dead_too_soon_go_on(state):
    """
    It answers again, in the same life, before its silence has counted; it may be about to leave.
    """
    async with Site.opened(2) as site:
        received = await begun_stream(site)
        give_up(site, 0, "dead")
        pass_ticks(site, 2)

        site.present(row(0, site.groups[0].port, state))
        pass_ticks(site, 4)
        await turns()

        received.write(LAST_CHUNK)
        assert await site.client.exactly(len(LAST_CHUNK)) == LAST_CHUNK
        await site.all_released()


async def test_a_new_life_at_the_old_address_is_reached_over_a_new_connection():
    """
    Connections that waited belong to the life before.
    """
    async with Site.opened(1) as site:
        for epoch in (11, 12):
            site.present(row(0, site.groups[0].port, epoch=epoch))
            site.client.send(post())
            (await site.groups[0].next_request()).answer()
            assert (await site.client.response()).status == 200
        assert len(site.groups[0].connections) == 2


async def test_a_group_that_refuses_while_it_is_found_dead_is_left_once():
    """
    The look that finds it dead is the one for the next group, in the middle of the exchange.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        site.present(row(0, site.groups[0].port, GroupState.DEAD))
        refuse(received)
        (await site.groups[1].next_request()).answer(b"other")

        assert (await site.client.response()).body == b"other"
        await site.all_released()
        assert site.door.meters.retries == {"refused": 1}
        assert site.num_received == [1, 1]


async def test_all_requests_of_a_lost_group_find_another_one():
    """
    A hundred at once, and not one is lost or given to a client twice.
    """
    async with Site.opened(3) as site, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(site.door.client()) for _ in range(100)]
        for client in clients:
            client.send(post())
        await until(lambda: sum(site.num_received) == 100)
        for group in site.groups[1:]:
            for received in group.received:
                received.answer()
            group.respond = lambda received: received.answer()

        give_up(site, 0, "dead")
        pass_ticks(site)

        assert [(await client.response()).status for client in clients] == [200] * 100
        await site.all_released()
        assert await questions(site) == [site.num_received[0], 0, 0]


# What a group that is gone had written


@pytest.mark.parametrize("num_turns", [0, 1, 20])
@pytest.mark.parametrize("how", GONE)
async def test_an_answer_that_was_on_its_way_is_passed_on(how, num_turns):
    """
    The group wrote it and ended, as each one does that drains; the door hears of the end first.
    """
    async with Site.opened(2) as site:
        received = await begun_stream(site)

        give_up(site, 0, how)
        await turns(num_turns)
        received.write(EVENT + LAST_CHUNK)
        received.close()

        assert await site.client.chunked_rest() == EVENT + LAST_CHUNK
        await site.all_released()
        assert (site.door.meters.upstream_lost, site.door.meters.retries) == (0, {})


@pytest.mark.parametrize("how", GONE)
async def test_a_slow_client_gets_the_whole_answer_of_a_group_that_is_gone(how):
    """
    However long it takes: a connection that is not read is not silent.
    """
    size = 30_000_000
    body = bytes(range(250)) * (size // 250)
    async with Site.opened(2) as site, site.door.client(limit=1 << 16) as client:
        client.send(post())
        received = await site.groups[0].next_request()
        received.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        received.write(body)
        received.close()
        await client.head()
        await turns(200)

        give_up(site, 0, how)
        for _ in range(4):
            pass_ticks(site)
            await turns()

        assert await client.exactly(size) == body
        await site.all_released()
        assert site.door.meters.upstream_lost == 0


async def test_what_still_comes_is_waited_for():
    """
    A group that was taken for dead and goes on loses nothing.
    """
    async with Site.opened(2) as site:
        received = await begun_stream(site)
        give_up(site, 0, "dead")
        for _ in range(5):
            pass_ticks(site, 1)
            received.write(EVENT)
            assert await site.client.exactly(len(EVENT)) == EVENT

        received.write(LAST_CHUNK)

        assert await site.client.exactly(len(LAST_CHUNK)) == LAST_CHUNK
        await site.all_released()
        assert site.door.meters.upstream_lost == 0


async def test_a_connection_to_a_group_that_is_gone_is_not_used_again():
    """
    Though it carried a whole answer, and the next life listens at the same address.
    """
    async with Site.opened(1) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        give_up(site, 0, "in a new life")
        received.answer(b"old")
        assert (await site.client.response()).body == b"old"

        site.client.send(post())
        (await site.groups[0].next_request()).answer(b"new")

        assert (await site.client.response()).body == b"new"
        assert len(site.groups[0].connections) == 2
