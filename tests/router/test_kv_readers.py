"""Whose KV events are read, what is wrong with whose, and who is told what they say."""

import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, generate_latest

from router.control_plane.kv_events.condition import KvCondition
from router.control_plane.kv_events.decoding import decoded
from router.control_plane.kv_events.endpoint import add_prefix_events
from router.control_plane.kv_events.metrics import kv_metrics
from router.control_plane.kv_events.rank import Batch
from router.control_plane.kv_events.readers import KvReaders, Wire
from shm.group_table import GroupEntry, GroupState
from shm.page_digest import page_digests
from tests.router.fakes import soon, turns, until
from tests.router.publisher import payload_of, stored

pytestmark = pytest.mark.anyio

KEY = "hush"


def row(dp_rank=0, epoch=11, at="tcp://a:1", engine="vllm"):
    return GroupEntry(dp_rank, GroupState.READY, epoch, "a", 1, engine=engine, kv_events=at)


class Reading:
    """Readers of a table, whose ranks hear what the test says."""

    def __init__(self, *rows):
        self.rows = rows
        self.ended = []
        self.failure = asyncio.get_running_loop().create_future()
        self.readers = KvReaders(lambda: self.rows, Wire(self._read, decoded))
        self.readers.look()

    async def _read(self, rank):
        rank.connected()
        try:
            await asyncio.shield(self.failure)
        finally:
            self.ended.append(rank.source.dp_rank)

    def hear(self, dp_rank, number, *events):
        (rank,) = [each for each in self.readers.ranks if each.source.dp_rank == dp_rank]
        rank.take_live(Batch(number, payload_of(*events)))


@asynccontextmanager
async def reading(*rows):
    found = Reading(*rows)
    await turns(2)
    yield found
    found.readers.close()
    await turns(2)


async def test_those_in_the_table_that_publish_are_read_and_no_others():
    """
    One that goes is not any more; one of another epoch or elsewhere is read anew.
    """
    async with reading(row(0), row(1), row(2, at="")) as found:
        assert [rank.source.dp_rank for rank in found.readers.ranks] == [0, 1]
        first = found.readers.ranks[0]
        found.rows = (row(0, epoch=12),)
        found.readers.look()
        await turns(2)
        assert sorted(found.ended) == [0, 1]
        assert [rank.source.group_epoch for rank in found.readers.ranks] == [12]
        assert found.readers.ranks[0] is not first
        assert found.readers.feed(1) is None


async def test_a_reader_that_fails_ends_all_reading_with_its_error():
    """
    So that the control plane is started anew, and does not go on blind.
    """
    async with reading(row(0)) as found:
        found.failure.set_exception(OSError("no sockets"))
        await turns(2)
        with pytest.raises(OSError, match="no sockets"):
            found.readers.look()


async def test_page_sizes_that_differ_are_a_condition_of_all():
    """
    For prompts can be paged in one size alone; one that has told nothing has none.
    """
    async with reading(row(0), row(1)) as found:
        found.hear(0, 0, stored([1], [1, 1]))
        assert found.readers.conditions() == {}
        found.hear(1, 0, stored([1], [1, 1, 1], block_size=3))
        assert found.readers.conditions() == dict.fromkeys((0, 1), KvCondition.PAGE_SIZE)


async def test_copies_are_counted_where_the_engine_keeps_some():
    """
    vLLM does, a radix tree does not.
    """
    async with reading(row(0), row(1, engine="sglang")) as found:
        for dp_rank in (0, 1):
            twice = [stored([1], [1, 1])] * 2
            gone = {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}
            found.hear(dp_rank, 0, *twice, gone)
        assert [len(rank.blocks) for rank in found.readers.ranks] == [1, 0]


async def test_metrics_tell_what_is_known_and_what_is_wrong():
    """
    By group and reason.
    """
    async with reading(row(0)) as found:
        found.hear(0, 0, stored([1], [1, 1]), stored([2], [1, 1], lora_name="x"))
        found.readers.ranks[0].lost()
        registry = CollectorRegistry()
        registry.register(_Once(list(kv_metrics(found.readers))))
        text = generate_latest(registry).decode()

    assert 'levelhead_kv_condition{condition="disconnected",group="0"} 1.0' in text
    assert 'levelhead_kv_resets_total{group="0",reason="disconnected"} 1.0' in text
    assert 'levelhead_kv_blocks_unused_total{group="0",reason="lora"} 1.0' in text
    assert 'levelhead_kv_batches_total{group="0"} 1.0' in text
    assert 'levelhead_kv_pages{group="0"} 0.0' in text


class _Once:
    def __init__(self, metrics):
        self.collect = lambda: metrics
        self.describe = list


class Asked:
    """A request to the endpoint, and what came back of it."""

    def __init__(self, readers, dp_rank, key):
        app = FastAPI()
        add_prefix_events(app, readers, KEY)
        self.status, self.news = None, []
        self.leaves = asyncio.Event()
        path = f"/prefix_events/{dp_rank}"
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "GET",
            "http_version": "1.1", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"x-levelhead-instance-key", key.encode())],
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))
        self._is_asked = False

    async def _receive(self):
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.status = message.get("status", self.status)
        if self.status == 200:
            self.news += [orjson.loads(line) for line in message.get("body", b"").splitlines()]


async def test_a_front_door_is_told_all_and_then_what_changes():
    """
    Until it leaves, or the group does.
    """
    (digest,) = page_digests([1, 1], 2)
    async with reading(row(0)) as found:
        one, two = (Asked(found.readers, 0, KEY) for _ in range(2))
        await until(lambda: one.news == two.news == [{"epoch": 11, "page_size": 0}])
        found.hear(0, 0, stored([1], [1, 1]))
        found.readers.look()
        await until(lambda: {} in one.news)
        assert one.news[1:] == [{"epoch": 11, "page_size": 2}, {"stored": [digest]}, {}]
        one.leaves.set()
        await soon(one.task)
        found.rows = ()
        found.readers.look()
        await soon(two.task)


async def test_a_group_that_has_just_come_is_told_of_and_the_one_before_is_not():
    """
    Though nobody has looked since: a front door may have seen the table first.
    """
    async with reading(row(0)) as found:
        found.hear(0, 0, stored([1], [1, 1]))
        found.rows = (row(0, epoch=12),)
        asked = Asked(found.readers, 0, KEY)
        await until(lambda: asked.news)
        assert asked.news == [{"epoch": 12, "page_size": 0}]
        assert found.ended == [0]
        asked.leaves.set()
        await soon(asked.task)


async def test_after_the_end_nobody_is_read_again():
    """
    Whoever still looks or asks: the process ends.
    """
    async with reading(row(0)) as found:
        found.readers.close()
        found.readers.look()
        assert (found.readers.feed(0), found.readers.ranks) == (None, [])


@pytest.mark.parametrize(("dp_rank", "key"), [(0, "guessed"), (0, ""), (7, KEY)])
async def test_nobody_else_is_told_anything(dp_rank, key):
    """
    Nor that there is something to tell; nor of a group that publishes nothing.
    """
    async with reading(row(0)) as found:
        asked = Asked(found.readers, dp_rank, key)
        await soon(asked.task)
        assert (asked.status, asked.news) == (404, [])


async def test_a_front_door_that_leaves_before_its_first_line_is_no_follower():
    """
    Lines would be kept for it that nobody takes.
    """
    async with reading(row(0)) as found:
        app = FastAPI()
        add_prefix_events(app, found.readers, KEY)
        (route,) = [each for each in app.routes if each.path == "/prefix_events/{dp_rank}"]
        asked = Request({"type": "http", "headers": [(b"x-levelhead-instance-key", KEY.encode())]})

        await (await route.endpoint(0, asked)).body_iterator.aclose()

        assert not found.readers.feed(0)._followers
