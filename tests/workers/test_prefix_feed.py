import asyncio
from collections import deque
from functools import partial

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from shm.page_digest import page_digests
from workers.engine.cache_journal import CacheJournal
from workers.engine.radix_cache import RadixCache
from workers.errors import Stopping
from workers.server.prefix_feed import (
    POLLS_PER_HEARTBEAT,
    Cache,
    CacheState,
    PrefixEvents,
    PrefixFeed,
    Reader,
)

NEVER_S = 1e6
BEGUN = {"epoch": 7, "page_size": 1}


class Group:
    """A cache, whose step loop answers when the test lets it, and a feed that the test polls."""

    def __init__(self, max_unread=1000):
        self.cache = RadixCache(1, CacheJournal(max_unread))
        self.asked = deque()
        self.is_ready = True
        self.next_page = 0
        known = Cache(7, 1, self.cache.journal, self._look, lambda: self.is_ready)
        self.feed = PrefixFeed(known, poll_s=NEVER_S)

    def _look(self, tell):
        if not self.is_ready:
            raise Stopping
        self.asked.append(tell)

    def look(self):
        """The step loop is between two steps; what it saw is on its way to the event loop."""
        state = CacheState(self.cache.journal.read(), self.cache.digests())
        return partial(self.asked.popleft(), state)

    def answer(self):
        self.look()()

    def insert(self, *tokens):
        pages = range(self.next_page, self.next_page + len(tokens))
        self.next_page += len(tokens)
        self.cache.insert(list(tokens), pages)


def digests(*tokens):
    return page_digests(tokens, 1)


def news(lines):
    return [orjson.loads(line) for line in lines.splitlines()]


async def told(reader):
    """What waits for a reader, which must be something."""
    async with asyncio.timeout(10):
        return news(await reader.next())


def with_group(scenario, **options):
    async def run():
        return await scenario(Group(**options))

    return asyncio.run(run())


def test_a_reader_is_told_all_and_then_what_changes():
    """
    In the order in which it happened, changes of one kind in one line.
    """

    async def scenario(group):
        group.insert(1, 2)
        reader = group.feed.open()
        group.answer()
        first = await told(reader)
        group.insert(3)
        group.insert(4)
        group.cache.evict(4)
        group.feed.poll()
        return first, await told(reader)

    first, then = with_group(scenario)

    assert first == [BEGUN, {"stored": digests(1, 2)}]
    assert then[0] == {"stored": [*digests(3), *digests(4)]}
    assert sorted(then[1]["evicted"]) == sorted([*digests(1, 2), *digests(3), *digests(4)])


def test_changes_between_the_look_and_its_answer_are_told_after_it():
    """
    The journal is left alone until then, or a reader would hear of them before all there was.
    """

    async def scenario(group):
        old = group.feed.open()
        group.answer()
        await told(old)
        new = group.feed.open()
        group.insert(1)
        answer = group.look()
        group.insert(2)
        group.feed.poll()
        answer()
        group.feed.poll()
        return await told(old), await told(new)

    for_old, for_new = with_group(scenario)

    assert for_old == [{"stored": digests(1)}, {"stored": digests(2)}]
    assert for_new == [BEGUN, {"stored": digests(1)}, {"stored": digests(2)}]


def test_when_the_journal_forgot_something_all_is_told_anew():
    """
    Nobody is left with half the news.
    """

    async def scenario(group):
        reader = group.feed.open()
        group.answer()
        await told(reader)
        group.insert(1, 2, 3)
        group.feed.poll()
        group.answer()
        return await told(reader)

    begun, *rest = with_group(scenario, max_unread=2)

    assert begun == BEGUN
    assert rest == [{"stored": digests(1, 2, 3)}]


def test_nobody_reads_the_journal_for_nobody():
    """
    Without a reader no task runs and nothing is asked of the step loop.
    """

    async def scenario(group):
        group.insert(1)
        await asyncio.sleep(0)
        idle = len(asyncio.all_tasks()), len(group.asked)
        group.feed.close(group.feed.open())
        for _ in range(3):
            await asyncio.sleep(0)
        return idle, len(asyncio.all_tasks())

    idle, after = with_group(scenario)

    assert idle == (1, 0)
    assert after == 1


def test_several_readers_that_come_together_cost_one_look():
    """
    The step loop walks its cache once for all of them.
    """

    async def scenario(group):
        readers = [group.feed.open() for _ in range(3)]
        assert len(group.asked) == 1
        group.answer()
        return [await told(reader) for reader in readers]

    assert with_group(scenario) == [[BEGUN]] * 3


def test_a_quiet_cache_is_heard_of_once_a_second():
    """
    So that a front door can tell silence from a broken connection.
    """

    async def scenario(group):
        reader = group.feed.open()
        group.answer()
        await told(reader)
        for _ in range(POLLS_PER_HEARTBEAT):
            group.feed.poll()
        return await told(reader)

    assert with_group(scenario) == [{}]


def test_a_slow_reader_is_cut_off():
    """
    What waits for it is dropped, and it comes to its end.
    """

    async def scenario(_):
        reader = Reader(max_unread_bytes=10)
        reader.push(b"a whole cache, however large\n")
        taken = await reader.next()
        reader.push(b"123456789\n")
        reader.push(b"1\n")
        reader.push(b"2\n")
        return taken, await reader.next(), await reader.next()

    assert with_group(scenario) == (b"a whole cache, however large\n", b"", b"")


def test_a_long_cache_is_told_in_lines_of_bounded_length():
    """
    A reader need not take a megabyte at once.
    """

    async def scenario(group):
        group.insert(*range(2500))
        reader = group.feed.open()
        group.answer()
        return await told(reader)

    lines = with_group(scenario)

    assert [len(line.get("stored", [])) for line in lines] == [0, 1024, 1024, 452]


class Connection:
    """One GET over raw ASGI, whose client can hang up."""

    def __init__(self, feed):
        self.sent = []
        self._inbound = asyncio.Queue()
        app = PrefixEvents(feed)
        self.task = asyncio.create_task(app({"type": "http"}, self._inbound.get, self._send))

    async def _send(self, message):
        self.sent.append(message)

    def hang_up(self):
        self._inbound.put_nowait({"type": "http.disconnect"})

    async def settle_down(self):
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)


def test_the_answer_goes_on_until_the_front_door_leaves():
    """
    And then nothing is kept for it.
    """

    async def scenario(group):
        connection = Connection(group.feed)
        await connection.settle_down()
        group.answer()
        await connection.settle_down()
        assert not connection.task.done()
        connection.hang_up()
        await connection.task
        return connection, len(group.feed._readers)

    connection, num_readers = with_group(scenario)

    assert connection.sent[0]["status"] == 200
    assert news(connection.body) == [BEGUN]
    assert num_readers == 0


def test_the_answer_ends_when_the_engine_stops():
    """
    A server that shuts down does not wait for front doors to leave.
    """

    async def scenario(group):
        connection = Connection(group.feed)
        await connection.settle_down()
        group.is_ready = False
        group.feed.poll()
        await connection.task
        late = Connection(group.feed)
        await late.task
        return connection.sent[-1], late.sent[0]["status"]

    last, status = with_group(scenario)

    assert last == {"type": "http.response.body", "body": b""}
    assert status == 503


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


class AnyTraffic(RuleBasedStateMachine):
    """Whenever the feed has caught up, every reader that is left knows what is cached."""

    @initialize(max_unread=st.sampled_from([2, 1000]))
    def start(self, max_unread):
        self.runner = asyncio.Runner()
        self.group = Group(max_unread)
        self.readers, self.answers = {}, deque()

    def in_loop(self, call):
        async def run():
            result = call()
            for _ in range(4):
                await asyncio.sleep(0)
            return result

        return self.runner.run(run())

    @rule()
    def reader_comes(self):
        reader = self.in_loop(self.group.feed.open)
        self.readers[reader] = set()
        self.in_loop(lambda: asyncio.create_task(self.follow(reader)))

    async def follow(self, reader):
        while lines := await reader.next():
            for line in news(lines):
                known = self.readers[reader]
                if "epoch" in line:
                    known.clear()
                assert known.isdisjoint(line.get("stored", ())), "told twice"
                assert known.issuperset(line.get("evicted", ())), "never told"
                known |= set(line.get("stored", ()))
                known -= set(line.get("evicted", ()))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def reader_goes(self, data):
        reader = data.draw(st.sampled_from(list(self.readers)))
        self.in_loop(lambda: self.group.feed.close(reader))
        self.in_loop(reader.end)
        del self.readers[reader]

    @rule(tokens=TOKENS)
    def stored(self, tokens):
        self.group.insert(*tokens)

    @rule(num_pages=st.integers(1, 4))
    def evicted(self, num_pages):
        self.group.cache.evict(num_pages)

    @precondition(lambda self: self.group.asked)
    @rule()
    def step_loop_looks(self):
        self.answers.append(self.group.look())

    @precondition(lambda self: self.answers)
    @rule()
    def answer_comes(self):
        self.in_loop(self.answers.popleft())

    @rule()
    def polled(self):
        self.in_loop(self.group.feed.poll)

    @rule()
    def catches_up(self):
        while self.group.asked or self.answers:
            if self.group.asked:
                self.step_loop_looks()
            self.answer_comes()
        self.polled()
        while self.group.asked:
            self.step_loop_looks()
            self.answer_comes()
        held = set(self.group.cache.digests())
        assert all(known == held for known in self.readers.values())

    @invariant()
    def one_look_at_a_time(self):
        assert len(self.group.asked) + len(self.answers) <= 1

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.close()


AnyTraffic.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase
