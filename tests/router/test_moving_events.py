"""KV events of real publishers whose engines come, go and take each other's slots."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import zmq.asyncio

from router.control_plane.kv_events.readers import KvReaders
from router.control_plane.kv_events.zmq_reader import zmq_wire
from shm.page_digest import page_digests
from tests.router.clients import chunk
from tests.router.fakes import soon, until
from tests.router.groups import FakeGroup
from tests.router.hotel import hotel
from tests.router.publisher import Publisher, stored
from tests.router.test_engine_prompts import a_folder

pytestmark = pytest.mark.anyio
PAGES = page_digests([1, 1, 2, 2], 2)
ONE, BOTH = stored([10], [1, 1]), stored([10, 20], [1, 1, 2, 2])
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Site:
    """A control plane's enrolment and readers, and a front door that is told by these."""

    def __init__(self, hotel, context):
        self.hotel = hotel
        membership = hotel.enrolled.membership
        self.readers = KvReaders(lambda: membership.groups, zmq_wire(context))
        self.index = None
        self.telling = set()

    def respond(self, received):
        """As `GET /prefix_events/N` is answered."""
        feed = self.readers.feed(int(received.target.rpartition(b"/")[2]))
        assert feed is not None
        received.write(HEAD)
        self.telling.add(asyncio.ensure_future(self._tell(received, feed.open())))

    async def _tell(self, received, follower):
        while lines := await follower.next():
            received.write(chunk(lines))

    def want(self, **publishers):
        """These engines, by host."""
        self.hotel.source.tells(
            *(f"http://{host}:1,kind=vllm,dp-size=1,kv-events={publisher.endpoint}"
              for host, publisher in publishers.items())
        )  # fmt: skip

    async def knows(self, num_pages):
        """The front door believes that slot 0 has so many, and nobody has any other."""
        await until(lambda: (self.index.match(PAGES), len(self.index)) == ([num_pages], num_pages))


@asynccontextmanager
async def ended():
    """A context whose sockets must all be closed in the end."""
    context = zmq.asyncio.Context()
    try:
        yield context
        await soon(asyncio.to_thread(context.term))  # waits for every one of them
    finally:
        context.destroy(linger=0)


@asynccontextmanager
async def moving(folder):
    settings = {
        "method": "slack_affinity", "instance_key": "hush", "tokenizer_path": str(a_folder(folder)),
    }  # fmt: skip
    async with ended() as context, hotel(max_groups=1, **settings) as rooms:
        rooms.engines.up = {"a": "m", "b": "m"}
        site = Site(rooms, context)
        path = rooms.house.instance.control_socket
        async with FakeGroup.listening(site.respond, path=path), rooms.house.door() as door:
            site.index = door.controller.prefixes
            await rooms.run()
            keeping = asyncio.create_task(site.readers.keep())
            try:
                yield site
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, *site.telling, return_exceptions=True)


async def test_whoever_gets_a_slot_begins_with_nothing_and_is_the_only_one_heard(tmp_path):
    """
    What the one before had cached is forgotten, and nobody subscribes there any more.
    """
    async with moving(tmp_path) as site, published() as (one, two):
        site.want(a=one)
        await one.subscribed()
        await one.publish(ONE)
        await site.knows(1)
        (first,) = site.hotel.entries

        site.want(b=two)
        await unsubscribed(one)
        await two.subscribed()
        await site.knows(0)
        (second,) = site.hotel.entries
        assert (first.dp_rank, first.host, second.dp_rank, second.host) == (0, "a", 0, "b")
        assert second.epoch > first.epoch
        await one.publish(ONE)
        await two.publish(BOTH)
        await site.knows(2)

        site.want()
        await unsubscribed(two)
        await site.knows(0)
        await until(lambda: site.readers.ranks == [])


async def test_an_engine_that_comes_back_is_heard_in_its_new_epoch_alone(tmp_path):
    """
    It publishes where it did, and may have cached other things meanwhile.
    """
    async with moving(tmp_path) as site, published() as (one, _):
        for _ in range(2):
            site.want(a=one)
            await one.subscribed()
            await site.knows(0)
            await one.publish(ONE)
            await site.knows(1)
            site.want()
            await unsubscribed(one)
            await site.knows(0)


async def test_another_place_of_events_is_another_engine(tmp_path):
    """
    It comes when the one before has left.
    """
    async with moving(tmp_path) as site, published() as (one, two):
        site.want(a=one)
        await one.subscribed()
        site.want(a=two)
        await unsubscribed(one)
        await two.subscribed()
        await two.publish(BOTH)
        await site.knows(2)


@asynccontextmanager
async def published():
    context = zmq.asyncio.Context()
    try:
        async with Publisher.open(context) as one, Publisher.open(context) as two:
            yield one, two
    finally:
        context.destroy(linger=0)


async def unsubscribed(publisher):
    assert await soon(publisher.pub.recv()) == b"\x00"
