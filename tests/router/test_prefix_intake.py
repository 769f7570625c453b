"""What a front door hears of prefix caches, over real sockets."""

import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest

from balancer.prefix_index import Change, PrefixEvent
from router.front_door.prefix_intake import Pauses, PrefixIntake, Whereabouts
from router.front_door.upstream_pool import UpstreamPool
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import chunk
from tests.router.fakes import until
from tests.router.groups import FakeGroup

pytestmark = pytest.mark.anyio

EPOCH = 11
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BEGUN = {"epoch": EPOCH, "page_size": 16}
QUICK = Pauses(silence_s=5.0, first_s=0.001, longest_s=0.002)


def line(news):
    return orjson.dumps(news) + b"\n"


def begin(received, *news):
    received.write(HEAD + b"".join(chunk(line(each)) for each in (BEGUN, *news)))


class Heard:
    """An intake, and what it passed on."""

    def __init__(self, pauses):
        self.events = []
        pool = UpstreamPool(asyncio.get_running_loop())
        self.intake = PrefixIntake(
            pool,
            lambda *event: self.events.append(event),
            pauses,
            whereabouts=Whereabouts("", "hush"),
        )

    def follow(self, group, state=GroupState.READY, epoch=EPOCH, dp_rank=0):
        self.intake.follow((GroupEntry(dp_rank, state, epoch, "127.0.0.1", group.port),))

    async def heard(self, *events):
        """Wait until just these have come, all of the group's life."""
        await until(lambda: len(self.events) >= len(events))
        assert self.events == [(0, EPOCH, event) for event in events]


@asynccontextmanager
async def listening(pauses=QUICK):
    heard = Heard(pauses)
    async with FakeGroup.listening() as group:
        yield heard, group
        heard.intake.stop()


begun = PrefixEvent(Change.BEGUN)


def stored(*digests):
    return PrefixEvent(Change.STORED, list(digests))


async def test_what_a_ready_group_tells_is_passed_on():
    """
    All of it, then changes, however the bytes are cut; a sign of life is no event.
    """
    async with listening() as (heard, group):
        heard.follow(group)
        received = await group.next_request()
        assert (received.method, received.target) == (b"GET", b"/prefix_events")
        assert received.header(b"x-levelhead-instance-key") == [b"hush"]
        begin(received, {"stored": [1, 2**64 - 1]}, {})
        rest = line({"evicted": [1]}) + line({"stored": [3]})
        await heard.heard(begun, stored(1, 2**64 - 1))
        for at in range(len(rest)):
            received.write(chunk(rest[at : at + 1]))
        await heard.heard(begun, stored(1, 2**64 - 1), PrefixEvent(Change.EVICTED, [1]), stored(3))
        assert heard.intake.num_connected == 1


@pytest.mark.parametrize("state", ["starting", "draining", "dead"])
async def test_only_a_ready_group_is_followed(state):
    """
    One that is ready no longer is left at once.
    """
    state = GroupState(state)
    async with listening() as (heard, group):
        heard.follow(group, state)
        heard.follow(group)
        received = await group.next_request()
        begin(received)
        await heard.heard(begun)
        heard.follow(group)
        heard.follow(group, state)
        await until(lambda: received.connection_is_lost)

        assert heard.intake.num_connected == 0
        assert len(group.received) == 1


async def test_a_new_life_of_a_group_is_followed_anew():
    """
    The old life's connection is given up, and its last words count for nothing.
    """
    async with listening() as (heard, group):
        heard.follow(group)
        old = await group.next_request()
        begin(old)
        await heard.heard(begun)
        heard.follow(group, epoch=EPOCH + 1)
        old.write(chunk(line({"stored": [1]})))
        new = await group.next_request()
        new.write(HEAD + chunk(line(BEGUN | {"epoch": EPOCH + 1})))
        await until(lambda: len(heard.events) == 2)

        assert heard.events[1] == (0, EPOCH + 1, begun)


@pytest.mark.parametrize("way", ["abort", "close", "end"])
async def test_a_lost_connection_is_made_again_and_all_is_told_again(way, caplog):
    """
    One warning for it.
    """
    async with listening() as (heard, group):
        heard.follow(group)
        received = await group.next_request()
        begin(received, {"stored": [1]})
        await heard.heard(begun, stored(1))
        received.write(b"0\r\n\r\n") if way == "end" else getattr(received, way)()
        begin(await group.next_request(), {"stored": [2]})
        await heard.heard(begun, stored(1), begun, stored(2))

        assert heard.intake.num_connected == 1
    assert len(caplog.records) == 1


async def test_a_group_that_stays_away_is_tried_again_and_one_warning_is_enough(caplog):
    """
    A group of another make answers 404 for ever.
    """
    async with listening() as (heard, group):
        heard.follow(group)
        for _ in range(5):
            (await group.next_request()).answer(status=b"404 Not Found")

        assert heard.events == []
        assert heard.intake.num_connected == 0
    assert [record.message for record in caplog.records] == [
        "DP group 0 tells no prefixes: it answers with status 404"
    ]


@pytest.mark.parametrize(
    "told",
    [b"no json\n", b"[]\n", line({"epoch": 12}), line({"held": [1]}), line({"stored": 5}),
     line({"stored": ["1"]}), line({"stored": [True]}), line({"stored": [1], "evicted": []}),
     b"x" * (2 << 20)],
)  # fmt: skip
async def test_what_cannot_be_read_ends_the_connection(told, caplog):
    """
    It is made again, and nothing of that line is believed.
    """
    async with listening() as (heard, group):
        heard.follow(group)
        received = await group.next_request()
        begin(received)
        received.write(chunk(told))
        begin(await group.next_request())
        await heard.heard(begun, begun)
    assert len(caplog.records) == 1


async def test_a_silent_connection_is_given_up():
    """
    A host that vanished closes nothing.
    """
    async with listening(QUICK._replace(silence_s=0.05)) as (heard, group):
        heard.follow(group)
        received = await group.next_request()
        begin(received)
        await until(lambda: received.connection_is_lost)
        await group.next_request()
