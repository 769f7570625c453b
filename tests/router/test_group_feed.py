"""What followers of a backend's group are told, against the set that they should have."""

import asyncio

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.control_plane.kv_events.block_map import BlockMap
from router.control_plane.kv_events.condition import KvTally
from router.control_plane.kv_events.events import AllCleared, BlocksRemoved, BlocksStored
from router.control_plane.kv_events.group_feed import GroupFeed
from shm.page_digest import page_digests
from tests.router.fakes import soon

pytestmark = pytest.mark.anyio

EPOCH = 11


class Told:
    """A feed over a map, and who follows it."""

    def __init__(self):
        self.blocks = BlockMap(KvTally(), counts_copies=True)
        self.feed = GroupFeed(EPOCH, self.blocks)

    def happens(self, event):
        change = self.blocks.take(event)
        if change is not None:
            self.feed.tell(change)

    def is_lost(self):
        self.blocks.forget()
        self.feed.begin()


class Reading:
    """What one who reads the lines has: as a front door does."""

    def __init__(self, follower):
        self.follower = follower
        self.digests = None
        self.page_size = None

    def read(self):
        for line in self.follower._unread.splitlines():
            self.take(orjson.loads(line))
        self.follower._unread.clear()

    def take(self, news):
        if "epoch" in news:
            assert news["epoch"] == EPOCH
            self.digests, self.page_size = set(), news["page_size"]
        self.digests |= set(news.get("stored", ()))
        self.digests -= set(news.get("evicted", ()))


def block(number, tokens=(1, 1)):
    return BlocksStored([number], None, list(tokens), len(tokens))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["clear", "lose", "join", "read", "beat"]), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whoever_comes_whenever_has_what_there_is(steps):
    """
    All of it first, then changes, for each who follows, whatever is forgotten in between.
    """
    told, readings, held = Told(), [], {}
    for what, number in steps:
        if what == "store":
            told.happens(block(number, (number, number)))
            held[number] = held.get(number, 0) + 1
        elif what == "remove":
            told.happens(BlocksRemoved([number]))
            held[number] = max(0, held.get(number, 0) - 1)
        elif what in ("clear", "lose"):
            told.happens(AllCleared()) if what == "clear" else told.is_lost()
            held = {}
        elif what == "join":
            readings.append(Reading(told.feed.open()))
        elif what == "beat":
            told.feed.beat()
        else:
            for reading in readings:
                reading.read()
    expected = {page_digests([n, n], 2)[0] for n, count in held.items() if count}
    for reading in (*readings, Reading(told.feed.open())):
        reading.read()
        assert (reading.digests, reading.page_size) == (expected, told.blocks.page_size)


def test_a_line_has_at_most_1024_digests():
    """
    However many the group has.
    """
    told = Told()
    told.happens(BlocksStored(list(range(1030)), None, [1] * 1030, 1))
    lines = [orjson.loads(line) for line in told.feed.open()._unread.splitlines()]

    assert lines[0] == {"epoch": EPOCH, "page_size": 1}
    assert [len(line["stored"]) for line in lines[1:]] == [1024, 6]


async def test_a_follower_that_takes_too_little_is_cut_off_and_the_others_are_not():
    """
    What it has not taken is dropped.
    """
    told = Told()
    slow, quick = told.feed.open(max_unread_bytes=200), told.feed.open()
    for number in range(20):
        told.happens(block(number, (number, number)))
    reading = Reading(quick)
    reading.read()

    assert await soon(slow.next()) == b""
    assert len(reading.digests) == 20


async def test_followers_are_at_their_end_when_the_group_is():
    """
    And who has gone is told nothing.
    """
    told = Told()
    gone, here = told.feed.open(), told.feed.open()
    await soon(gone.next())
    told.feed.close(gone)
    told.feed.end()

    assert await soon(here.next()) == b""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gone.next(), 0.01)


async def test_who_comes_after_the_end_is_at_it():
    """
    Nobody would tell it of the end again.
    """
    told = Told()
    told.feed.end()

    assert await soon(told.feed.open().next()) == b""
