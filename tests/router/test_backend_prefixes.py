"""A front door before engines that publish what they cache: its counts, beliefs and charges."""

import contextlib

import orjson
import pytest

from shm.group_table import GroupState
from shm.page_digest import page_digests
from tests.router.backends import Backends
from tests.router.clients import chunk, post
from tests.router.fakes import HeldExecutor, turns, until
from tests.router.groups import FakeGroup
from tests.router.test_engine_prompts import TEMPLATE, a_folder

pytestmark = pytest.mark.anyio

TEXT, CHAT = b"/v1/completions", b"/v1/chat/completions"
PROMPT = list(range(100, 202))
DIGESTS = page_digests(PROMPT, 4)
BODY = orjson.dumps({"prompt": PROMPT, "model": "m"})
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class ControlPlane(FakeGroup):
    """What tells of the backends; the test writes it."""

    def __init__(self, respond=None):
        super().__init__(respond)
        self.listeners = {}

    def take(self, received):
        received.write(HEAD)
        self.listeners[int(received.target.rpartition(b"/")[2])] = received

    def tell(self, dp_rank, **news):
        self.listeners[dp_rank].write(chunk(orjson.dumps(news) + b"\n"))


@contextlib.asynccontextmanager
async def a_site(folder, page_sizes=(4, 4), kv_events="tcp://a:1", **settings):
    """Two ranks of an engine, and a control plane that tells of both."""
    settings |= {"method": "slack_affinity", "instance_key": "hush"}
    a_folder(folder, TEMPLATE)
    settings["tokenizer_path"] = str(folder)
    async with Backends.opened((0, 1), kv_events=kv_events, **settings) as site:
        path = site.house.instance.control_socket
        async with ControlPlane.listening(path=path) as control:
            site.present(models=[("m", "adapter")] * 2)
            if kv_events:
                await until(lambda: len(control.listeners) == 2, 20)
                for dp_rank, size in enumerate(page_sizes):
                    control.tell(dp_rank, epoch=1, page_size=size)
                await until(lambda: site.door.door.prefixes.num_connected == 2)
            await turns(5)
            yield site, control


async def send(site, body=BODY, path=TEXT):
    """Send it; return which group got it, and what is charged and booked for it."""
    (server,) = site.servers
    num_before = len(server.received)
    site.client.send(post(body, path))
    await until(lambda: len(server.received) > num_before)
    received = await server.next_request()
    (dp_rank,) = map(int, received.header(b"x-data-parallel-rank"))
    flying, book = site.flying(dp_rank), site.book(dp_rank)
    received.answer()
    await site.client.response()
    await site.door.all_released()
    return dp_rank, flying.tokens, book.tokens


def counted(site):
    return {source: count for source, count in site.door.meters.prompt_tokens.items() if count}


@pytest.mark.parametrize("home", [0, 1])
async def test_a_prompt_goes_where_its_pages_are(tmp_path, home):
    """
    The charge is what has to be computed, the book what is held: see decision 18.
    """
    async with a_site(tmp_path) as (site, control):
        control.tell(home, stored=DIGESTS)
        await until(lambda: len(site.door.controller.prefixes) == len(DIGESTS))
        for _ in range(3):
            assert await send(site) == (home, 102 - 100, 102)
        assert counted(site) == {"exact": 306}
        assert site.door.meters.predicted_cached_tokens == 300
        assert (control.listeners[0].target, control.listeners[1].target) == (
            b"/prefix_events/0",
            b"/prefix_events/1",
        )
        assert control.listeners[0].header(b"x-levelhead-instance-key") == [b"hush"]


async def test_what_is_forgotten_there_is_forgotten_here(tmp_path):
    """
    And what is charged is the whole prompt again, once what was sent is expected no more.
    """
    async with a_site(tmp_path) as (site, control):
        control.tell(0, stored=DIGESTS)
        await until(lambda: len(site.door.controller.prefixes) == len(DIGESTS))
        control.tell(0, epoch=1, page_size=0)
        await until(lambda: len(site.door.controller.prefixes) == 0)
        assert (await send(site))[1:] == (102, 102)


async def test_a_conversation_is_counted_as_the_engine_renders_it(tmp_path):
    """
    Eight words: BOS, user, hi, well, end, assistant, go; and what is in no vocabulary is one.
    """
    async with a_site(tmp_path) as (site, _):
        body = orjson.dumps({"messages": [{"role": "user", "content": "hi well then"}]})
        assert (await send(site, body, CHAT))[1:] == (8, 8)
        assert counted(site) == {"exact": 8}


@pytest.mark.parametrize("model", ["adapter", "m:adapter", "unlisted", ["m"], {"m": 1}, 7])
async def test_a_prompt_for_an_adapter_is_counted_and_finds_no_pages(tmp_path, model):
    """
    Its blocks are cached apart from those of the model.
    """
    async with a_site(tmp_path) as (site, control):
        control.tell(0, stored=DIGESTS)
        await until(lambda: len(site.door.controller.prefixes) == len(DIGESTS))
        body = orjson.dumps({"prompt": PROMPT, "model": model})
        assert (await send(site, body))[1:] == (102, 102)
        assert counted(site) == {"exact": 102}


async def test_where_engines_have_different_models_prompts_are_estimated(tmp_path):
    """
    For whose tokenizer it is nobody said.
    """
    async with a_site(tmp_path) as (site, _):
        site.present(models=[("m",), ("other",)])
        site.door.door.dispatcher.refresh()
        text = orjson.dumps({"prompt": "x" * 400, "model": "m"})
        assert (await send(site, text))[1:] == (100, 100)
        assert counted(site) == {"estimated": 100}


async def test_pages_of_different_sizes_are_not_named(tmp_path, caplog):
    """
    Prompts are counted exactly all the same, and the log says so once.
    """
    async with a_site(tmp_path, (4, 8)) as (site, control):
        control.tell(0, stored=DIGESTS)
        await until(lambda: len(site.door.controller.prefixes) == len(DIGESTS))
        assert (await send(site))[1:] == (102, 102)
        assert caplog.text.count("prompts are not paged: groups have pages of [4, 8] tokens") == 1
        control.tell(1, epoch=1, page_size=4)
        await until(lambda: site.door.door._counter.page_size == 4)


async def test_a_group_that_has_told_no_block_yet_does_not_keep_others_from_being_paged(tmp_path):
    """
    An idle rank publishes nothing.
    """
    async with a_site(tmp_path, (4, 0)) as (site, control):
        control.tell(0, stored=DIGESTS)
        await until(lambda: len(site.door.controller.prefixes) == len(DIGESTS))
        assert await send(site) == (0, 2, 102)


async def test_without_events_prompts_are_counted_and_not_named(tmp_path):
    """
    A tokenizer alone makes the books exact.
    """
    async with a_site(tmp_path, kv_events="") as (site, control):
        assert (await send(site))[1:] == (102, 102)
        assert (counted(site), control.listeners) == ({"exact": 102}, {})


async def test_a_group_that_has_died_is_not_followed_and_its_pages_are_not_named(tmp_path):
    """
    Until it is ready again.
    """
    async with a_site(tmp_path) as (site, _):
        site.present(GroupState.READY, GroupState.DEAD, models=[("m",)] * 2)
        site.door.door.dispatcher.refresh()
        await until(lambda: site.door.door.prefixes.num_connected == 1)


async def test_a_long_prompt_is_counted_beside_the_event_loop(tmp_path):
    """
    It is dispatched when it is counted, and not at all if its client leaves before.
    """
    executor, body = HeldExecutor(), orjson.dumps({"prompt": "hi " * 4000})
    async with a_site(tmp_path, executor=executor) as (site, _):
        site.client.send(post(body, TEXT))
        await until(lambda: executor.held)
        assert site.num_received == [0]
        executor.run_all()
        received = await site.servers[0].next_request()
        received.answer()
        await site.client.response()
        site.client.send(post(body, TEXT))
        await until(lambda: executor.held)
        site.client.leave()
        await site.door.all_released()
        executor.run_all()
        await turns()
        assert (site.num_received, counted(site)) == ([1], {"exact": 4001})


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": ""}] * 400},
        {"messages": [{"role": "user", "content": "", "name": "go " * 3000}]},
    ],
)
async def test_a_long_body_with_little_text_is_counted_beside_the_event_loop(tmp_path, fields):
    """
    The template makes a long prompt of many messages, and of what is no text.
    """
    executor = HeldExecutor()
    async with a_site(tmp_path, executor=executor) as (site, _control):
        site.client.send(post(orjson.dumps(fields), CHAT))
        await until(lambda: executor.held)
        executor.run_all()
        (await site.servers[0].next_request()).answer()
        assert (await site.client.response()).status == 200
        assert set(counted(site)) == {"exact"}


async def test_too_many_messages_are_estimated(tmp_path):
    """
    However short: what a template makes of them is over what is counted.
    """
    body = orjson.dumps({"messages": [{"role": "user", "content": ""}] * 16_400})
    async with a_site(tmp_path) as (site, _control):
        site.client.send(post(body, CHAT))
        (await site.servers[0].next_request()).answer()
        assert (await site.client.response()).status == 200
        assert "exact" not in counted(site)
