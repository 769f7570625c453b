"""A front door that dispatches by prefixes: what it believes of its groups, over real sockets."""

import asyncio
import contextlib

import orjson
import pytest

from shm.group_table import GroupEntry, GroupState
from shm.page_digest import page_digests
from tests.router.clients import chunk, post
from tests.router.fakes import soon, turns, until
from tests.router.groups import FakeGroup
from tests.router.house import House

pytestmark = pytest.mark.anyio

PAGE_SIZE = 4
PROMPT = list(range(100, 202))
DIGESTS = page_digests(PROMPT, PAGE_SIZE)
BODY = orjson.dumps({"prompt": PROMPT})
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Teller(FakeGroup):
    """A group whose prefix events the test writes; questions for them are kept apart."""

    def __init__(self, respond=None):
        super().__init__(respond)
        self.listeners = []

    def take(self, received):
        if received.target == b"/prefix_events":
            received.write(EVENTS_HEAD)
            self.listeners.append(received)
        else:
            super().take(received)

    def tell(self, **news):
        self.listeners[-1].write(chunk(orjson.dumps(news) + b"\n"))


@contextlib.asynccontextmanager
async def a_house(method="slack_affinity", **page_size):
    """Two groups and a door that follows both; what page size the table gives them."""
    async with contextlib.AsyncExitStack() as stack:
        house = await stack.enter_async_context(House.built(dp_size=2, method=method))
        groups = [await stack.enter_async_context(Teller.listening()) for _ in range(2)]
        house.present(*groups, **{"page_size": PAGE_SIZE} | page_size)
        house.report(2)
        door = await stack.enter_async_context(house.door())
        client = await stack.enter_async_context(door.client())
        if method == "slack_affinity":
            await until(lambda: all(group.listeners for group in groups))
            for group in groups:
                group.tell(epoch=11, page_size=PAGE_SIZE)
            await until(lambda: door.door.prefixes.num_connected == 2)
        yield house, groups, door, client


async def send(client, groups, respond=lambda received: received.answer()):
    """Send the prompt; return which group got it, after it was answered."""
    before = [len(group.received) for group in groups]
    client.send(post(BODY, b"/v1/completions"))
    await until(lambda: [len(group.received) for group in groups] != before)
    (taken,) = [i for i, group in enumerate(groups) if len(group.received) > before[i]]
    respond(await groups[taken].next_request())
    return taken, (await client.response()).status


@pytest.mark.parametrize("home", [0, 1])
async def test_a_prompt_goes_where_its_pages_are_stored(home):
    """
    Every time, and the front door counts what it predicted.
    """
    async with a_house() as (_, groups, door, client):
        groups[home].tell(stored=DIGESTS)
        await until(lambda: len(door.controller.prefixes) == len(DIGESTS))

        assert await send(client, groups) == (home, 200)
        assert door.meters.predicted_cached_tokens == 100


async def test_prompts_that_a_group_refused_are_not_expected_there():
    """
    After an answer they are, for a while.
    """
    async with a_house() as (_, groups, door, client):
        prefixes = door.controller.prefixes
        taken, status = await send(client, groups, lambda r: r.answer(status=b"400 No"))
        assert (prefixes.match(DIGESTS), status) == ([0, 0], 400)
        taken, _ = await send(client, groups)
        assert prefixes.match(DIGESTS)[taken] == len(DIGESTS)
        door.door.check_time()
        assert prefixes.match(DIGESTS)[taken] == len(DIGESTS)
        door.door.check_time()

        assert prefixes.match(DIGESTS) == [0, 0]


async def test_a_retried_prompt_is_expected_only_where_it_was_answered():
    """
    The group that was full at first has not computed it.
    """
    async with a_house() as (_, groups, door, client):
        client.send(post(BODY, b"/v1/completions"))
        await until(lambda: any(group.received for group in groups))
        full = 0 if groups[0].received else 1
        (await groups[full].next_request()).answer(status=b"503 Full")
        (await groups[1 - full].next_request()).answer()
        assert (await client.response()).status == 200

        assert door.controller.prefixes.match(DIGESTS)[full] == 0
        assert door.controller.prefixes.match(DIGESTS)[1 - full] == len(DIGESTS)


async def test_a_client_that_leaves_before_an_answer_leaves_nothing_expected():
    """
    Whether the group computes its prompt still is not known.
    """
    async with a_house() as (_, groups, door, client):
        client.send(post(BODY, b"/v1/completions"))
        await until(lambda: any(group.received for group in groups))
        assert max(door.controller.prefixes.match(DIGESTS)) == len(DIGESTS)
        client.leave()
        await door.all_released()

        assert door.controller.prefixes.match(DIGESTS) == [0, 0]


async def test_requests_go_on_while_no_group_tells_anything():
    """
    Losing every connection is a warning and no error.
    """
    async with a_house() as (_, groups, door, client):
        for group in groups:
            group.listeners[-1].abort()
        await until(lambda: door.door.prefixes.num_connected == 0)

        assert (await send(client, groups))[1] == 200


async def test_a_group_that_becomes_ready_is_followed_without_traffic():
    """
    The regular look at the table is enough, and so it is for one that dies.
    """
    async with a_house() as (house, groups, door, _):
        dead = GroupEntry(1, GroupState.DEAD, 11, "127.0.0.1", groups[1].port)
        alive = GroupEntry(0, GroupState.READY, 11, "127.0.0.1", groups[0].port)
        house.publish_table(alive, dead)
        door.door.check_time()
        await until(lambda: groups[1].listeners[-1].connection_is_lost)
        assert door.door.prefixes.num_connected == 1
        house.present(*groups, page_size=PAGE_SIZE)
        door.door.check_time()
        await until(lambda: len(groups[1].listeners) == 2)

        assert len(groups[0].listeners) == 1


async def test_the_figures_tell_what_is_known_of_prefixes():
    """
    Groups that tell, and pages that they hold.
    """
    async with a_house() as (house, groups, door, _):
        groups[0].tell(stored=DIGESTS)
        await until(lambda: len(door.controller.prefixes) == len(DIGESTS))
        reader, writer = await asyncio.open_unix_connection(house.instance.meters_socket(0))
        figures = orjson.loads(await soon(reader.read()))
        writer.close()
        await writer.wait_closed()

        assert (figures["prefix_groups"], figures["prefix_digests"]) == (2, len(DIGESTS))


async def test_other_methods_follow_nobody_and_name_no_pages():
    """
    What a method does not use costs nothing.
    """
    async with a_house(method="minimum_tokens") as (_, groups, door, client):
        await send(client, groups)
        await turns()

        assert [group.listeners for group in groups] == [[], []]
        assert door.door._counter.page_size == 0
        assert door.controller.prefixes is None


async def test_without_a_page_size_no_pages_are_named():
    """
    A group of another make, or of an older version.
    """
    async with a_house(page_size=0) as (_, groups, door, client):
        assert (await send(client, groups))[1] == 200
        assert door.controller.prefixes.match(DIGESTS) == [0, 0]
