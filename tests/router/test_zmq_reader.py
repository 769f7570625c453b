"""Reading what an engine publishes, over real sockets: what is missed, repeated and begun anew."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import zmq.asyncio

from router.control_plane.kv_events.condition import KvCondition, Reset
from router.control_plane.kv_events.decoding import decoded
from router.control_plane.kv_events.rank import Rank
from router.control_plane.kv_events.source import RankSource
from router.control_plane.kv_events.zmq_reader import Limits, ZmqReader, zmq_wire
from shm.page_digest import page_digests
from tests.router.fakes import turns, until
from tests.router.publisher import Publisher, removed, stored

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = page_digests([1, 1, 2, 2, 3, 3], 2)
FIRST = stored([10], [1, 1])
SECOND = stored([20], [2, 2], parent=10)
THIRD = stored([30], [3, 3], parent=20)


class Heard:
    """A publisher, and what a reader made of it."""

    def __init__(self, publisher, rank):
        self.publisher = publisher
        self.rank = rank

    async def knows(self, *digests):
        await until(lambda: set(self.rank.blocks.digests) == set(digests))
        self.rank.blocks.check_integrity()

    async def has_taken(self, num_batches):
        await until(lambda: self.rank.tally.num_batches == num_batches)

    def resets(self):
        return {reset: count for reset, count in self.rank.tally.resets.items() if count}


@asynccontextmanager
async def hearing(*, replay=True, limits=Limits(), before=()):  # noqa: B008  a tuple of constants
    context = zmq.asyncio.Context()
    try:
        async with Publisher.open(context) as publisher:
            for event in before:
                await publisher.publish(event, is_lost=True)
            at = publisher.replay_endpoint if replay else ""
            rank = Rank(RankSource(0, 11, publisher.endpoint, at, "vllm"), decoded)
            task = asyncio.create_task(ZmqReader(context, rank, limits).keep())
            if replay:
                await publisher.repeat()
            await publisher.subscribed()
            await until(lambda: rank.condition is None)
            yield Heard(publisher, rank)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        context.destroy(linger=0)


async def test_what_is_published_is_known():
    """
    Stored, removed, and with a condition only as long as nobody answers.
    """
    async with hearing() as heard:
        await heard.publisher.publish(FIRST, SECOND)
        await heard.knows(ONE, TWO)
        await heard.publisher.publish(removed(20))
        await heard.knows(ONE)
        assert (heard.rank.condition, heard.resets()) == (None, {})


async def test_what_was_published_before_is_asked_for():
    """
    So a control plane that comes late, or again, knows all that the engine still keeps.
    """
    async with hearing(before=(FIRST, SECOND)) as heard:
        await heard.knows(ONE, TWO)
        assert heard.publisher.asked == [0]
        await heard.publisher.publish(THIRD)
        await heard.knows(ONE, TWO, THREE)
        assert (heard.rank.tally.num_repeated, heard.resets()) == (2, {})


async def test_without_repetition_what_was_before_is_not_known_and_no_gap():
    """
    Nor what follows it.
    """
    async with hearing(replay=False, before=(FIRST,)) as heard:
        await heard.publisher.publish(SECOND)
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        assert heard.resets() == {}


@pytest.mark.parametrize("topic", [(b"",), ()])
async def test_what_was_missed_is_asked_for_and_nothing_is_forgotten(topic):
    """
    In the form of old versions, without a topic, too.
    """
    async with hearing() as heard:
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        await heard.publisher.publish(SECOND, is_lost=True)
        await heard.publisher.publish(THIRD)
        await heard.publisher.repeat(topic)
        await heard.knows(ONE, TWO, THREE)
        assert heard.publisher.asked == [0, 1]
        assert (heard.rank.tally.num_batches, heard.resets()) == (3, {})


async def test_a_gap_that_nobody_fills_ends_all_that_was_known():
    """
    For among what was missed may be what was removed; then what comes is known.
    """
    async with hearing(replay=False) as heard:
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        await heard.publisher.publish(removed(10), is_lost=True)
        await heard.publisher.publish(stored([30], [3, 3]))
        await heard.knows(*page_digests([3, 3], 2))
        assert heard.resets() == {Reset.GAP: 1}


async def test_a_gap_of_which_too_little_is_kept_ends_all_that_was_known():
    """
    What is repeated behind it is known again.
    """
    async with hearing() as heard:
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        await heard.publisher.publish(removed(10), is_lost=True)
        await heard.publisher.publish(FIRST, is_lost=True)
        await heard.publisher.publish(SECOND)
        del heard.publisher.kept[1]
        await heard.publisher.repeat()
        await heard.knows(ONE, TWO)
        assert heard.resets() == {Reset.GAP: 1}


async def test_one_who_does_not_repeat_in_time_is_not_waited_for():
    """
    The gap is one, and what comes is known.
    """
    async with hearing(limits=Limits(repeat_s=0.02)) as heard:
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        await heard.publisher.publish(SECOND, is_lost=True)
        await heard.publisher.publish(FIRST)
        await heard.has_taken(2)
        await heard.knows(ONE)
        assert heard.resets() == {Reset.GAP: 1}


async def test_numbers_that_begin_anew_are_another_life():
    """
    In which nothing of the last one is cached.
    """
    async with hearing(replay=False) as heard:
        await heard.publisher.publish(FIRST)
        await heard.publisher.publish(SECOND)
        await heard.knows(ONE, TWO)
        heard.publisher.number = 0
        await heard.publisher.publish(stored([30], [3, 3]))
        await heard.knows(*page_digests([3, 3], 2))
        assert heard.resets() == {Reset.RESTART: 1}


async def test_nothing_is_known_while_nobody_answers_and_all_anew_afterwards():
    """
    An engine that is started again at the same place.
    """
    async with hearing(replay=False) as heard:
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        heard.publisher.stop()
        await until(lambda: heard.rank.condition is KvCondition.DISCONNECTED)
        await heard.knows()
        assert heard.resets() == {Reset.DISCONNECTED: 1}
        heard.publisher.number = 0
        heard.publisher.start()
        await heard.publisher.subscribed()
        await until(lambda: heard.rank.condition is None)
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)


async def test_what_cannot_be_read_ends_all_that_was_known_by_name():
    """
    Until a batch that can be.
    """
    async with hearing(replay=False) as heard:
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        await heard.publisher.publish(payload=b"\xc1")
        await until(lambda: heard.rank.condition is KvCondition.MALFORMED)
        await heard.knows()
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        assert (heard.rank.condition, heard.resets()) == (None, {Reset.MALFORMED: 1})


async def test_hashes_of_two_beginnings_are_believed_no_more():
    """
    However well what follows can be read.
    """
    async with hearing(replay=False) as heard:
        await heard.publisher.publish(FIRST, stored([10], [9, 9]))
        await until(lambda: heard.rank.condition is KvCondition.UNCHAINED)
        await heard.publisher.publish(FIRST)
        await heard.has_taken(2)
        await heard.knows()
        assert heard.resets() == {Reset.UNCHAINED: 1}


async def test_messages_of_no_such_protocol_are_passed_over():
    """
    Too few frames, and numbers of another size.
    """
    async with hearing(replay=False) as heard:
        await heard.publisher.pub.send_multipart([b"x"])
        await heard.publisher.pub.send_multipart([b"", b"123", b"x"])
        await heard.publisher.publish(FIRST)
        await heard.knows(ONE)
        assert heard.rank.tally.num_batches == 1


async def test_an_endpoint_that_cannot_be_listened_to_ends_nobodys_reading(caplog):
    """
    It is told once, and tried again and again.
    """
    context = zmq.asyncio.Context()
    rank = Rank(RankSource(0, 11, "tcp://_:1", "", "vllm"), decoded)
    reader = ZmqReader(context, rank, Limits(pause_s=0))
    task = asyncio.create_task(reader.keep())
    try:
        await turns(20)
        assert not task.done()
        assert rank.condition is KvCondition.DISCONNECTED
        assert [each.levelname for each in caplog.records] == ["WARNING"]
        assert "tcp://_:1 cannot be listened to: Invalid argument" in caplog.text
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        context.destroy(linger=0)


async def test_there_are_sockets_for_as_many_groups_as_there_may_be():
    """
    Each may have four: who is heard, two that tell of the connection, and who is asked again.
    """
    context = zmq.asyncio.Context()
    zmq_wire(context)

    assert context.get(zmq.MAX_SOCKETS) > 4 * 1024
    context.destroy(linger=0)
