"""A front door and a control plane before real servers that come and go under traffic."""

import asyncio
import random
from contextlib import AsyncExitStack

import httpx
import pytest

from router.control_plane.enrolled import Enrolled
from shm.board import Board
from shm.load import LoadWriter
from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup
from tests.router.hotel import Source
from tests.router.house import House

pytestmark = pytest.mark.anyio
REQUEST = post(b'{"prompt":"some words"}', b"/v1/completions")


class Server:
    """An engine that is well, and answers what it is asked at once, or when it is told."""

    def __init__(self):
        self.held = []
        self.holds = False
        self.num_answered = 0

    def __call__(self, received):
        if received.method == b"GET":
            received.answer(b'{"data":[]}')
        elif self.holds:
            received.write(SSE_HEAD + chunk(b"data: {}\n\n"))
            self.held.append(received)
        else:
            self.num_answered += 1
            received.answer()


class Site:
    def __init__(self, house, door, servers, groups, enrolled):
        self.house, self.door = house, door
        self.servers, self.groups, self.enrolled = servers, groups, enrolled

    def want(self, *numbers):
        told = [f"http://127.0.0.1:{self.groups[each].port},kind=openai" for each in numbers]
        self.enrolled.sources[0].tells(*told)

    @property
    def states(self):
        return {row.port: row.state.value for row in self.enrolled.membership.groups}

    async def serving(self, *numbers):
        ports = dict.fromkeys((self.groups[each].port for each in numbers), "ready")
        await until(lambda: self.states == ports)

    @property
    def open_on_board(self):
        board = self.door.board
        cells = [board.read(0, slot) for slot in range(board.num_groups)]
        sent = sum(cell.dispatched_requests - cell.returned_requests for cell in cells)
        return sent, sum(cell.book_tokens for cell in cells)


async def moving(test, num_servers=3, **settings):
    """Run the test on a site with so many servers, of which nobody is wanted yet."""
    servers = [Server() for _ in range(num_servers)]
    settings |= {"backends_file": "some", "max_groups": 2, "method": "round_robin"}
    async with House.built(dp_size=0, **settings) as house, httpx.AsyncClient() as client:
        house.table.publish((), 0)
        board = Board.attach(house.instance.name)
        writer = LoadWriter.attach(house.instance.name, 2, 1)
        source = Source()
        enrolled = Enrolled(
            house.instance, (house.table, board, writer), (client, client), (), [source],
            house.clock.ns,
        )  # fmt: skip
        keeping = asyncio.create_task(enrolled.keep())
        await until(lambda: source.tell is not None)
        try:
            async with AsyncExitStack() as stack:
                door = await stack.enter_async_context(house.door())
                opened = [FakeGroup.listening(each) for each in servers]
                groups = [await stack.enter_async_context(each) for each in opened]
                await test(Site(house, door, servers, groups, enrolled))
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            enrolled.close()
            board.close()


async def test_requests_go_on_while_engines_come_and_go():
    """
    Of three, two have slots at a time; every request is answered, and nothing stays on a book.
    """

    async def test(site):
        chance = random.Random(3)
        site.want(0)
        await site.serving(0)
        done = asyncio.Event()

        async def asking():
            async with site.door.client() as client:
                while not done.is_set():
                    client.send(REQUEST)
                    assert (await client.response()).status == 200
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as clients:
            for _ in range(4):
                clients.create_task(asking())
            at = 0
            for _ in range(12):
                other = chance.choice([each for each in range(3) if each != at])
                site.want(at, other)
                await site.serving(at, other)
                site.want(other)
                await site.serving(other)
                at = other
            done.set()
        await site.door.all_released()
        assert site.open_on_board == (0, 0)
        assert all(server.num_answered for server in site.servers)
        assert site.door.meters.upstream_lost == 0

    await moving(test)


async def test_a_stream_runs_out_on_a_slot_that_others_have_got():
    """
    The newcomer is charged with nothing of it, and what it is charged with itself is its own.
    """

    async def test(site):
        site.want(0)
        await site.serving(0)
        site.servers[0].holds = site.servers[1].holds = True
        async with site.door.client() as old, site.door.client() as new:
            old.send(REQUEST)
            await old.head()
            site.want()
            await until(lambda: site.states == {site.groups[0].port: "draining"})
            site.house.clock.now_s += 31
            await until(lambda: not site.states)
            site.want(1)
            await site.serving(1)
            assert [row.dp_rank for row in site.enrolled.membership.groups] == [0]

            new.send(REQUEST)
            await new.head()
            assert [book.requests for book in site.door.controller.books()] == [1, 0]
            site.servers[0].held[0].write(b"0\r\n\r\n")
            await old.chunked_rest()
            assert [book.requests for book in site.door.controller.books()] == [1, 0]
            site.servers[1].held[0].write(b"0\r\n\r\n")
            await new.chunked_rest()
        await site.door.all_released()
        assert site.open_on_board == (0, 0)

    await moving(test, num_servers=2)
