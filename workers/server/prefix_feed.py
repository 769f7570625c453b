"""
Tells front doors what the prefix cache holds: all of it first, then what changes.

    step loop ── appends ──► journal ── read every 50 ms ──► feed ──► a reader for each front door
         ▲                                                    │
         └──────── is asked for all digests, now and then ────┘

`GET /prefix_events` answers, for as long as the connection lasts, with a line of
JSON for each piece of news:

    {"epoch": E, "page_size": P}    forget what this group told; all that it holds follows
    {"stored": [digest, ...]}       at most 1,024 of them a line
    {"evicted": [digest, ...]}
    {}                              nothing new, once a second

All at once is asked for when a reader comes, and when the journal has forgotten
something.  Only the step loop may walk the cache, so it answers, between two
steps, with what it read from the journal just before; until then the feed leaves
the journal alone.  So nothing is told twice, left out, or in another order than
it happened.  While nobody reads, nothing here runs.

A reader that takes its lines too slowly is cut off, and is told all when it
comes again.  When the engine stops, all readers are at their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import NamedTuple

import orjson
from starlette.types import Receive, Scope, Send

from workers.engine.cache_journal import CacheEvent, CacheJournal, JournalPart
from workers.errors import Stopping, WorkerError
from workers.server.errors import from_error
from workers.server.sending import send_error, watch

POLL_S = 0.05
POLLS_PER_HEARTBEAT = 20
MAX_UNREAD_BYTES = 4 << 20
_DIGESTS_PER_LINE = 1024
_HEARTBEAT = b"{}\n"


class CacheState(NamedTuple):
    """What the step loop answers: all digests, and what the journal had until just before."""

    part: JournalPart
    digests: Sequence[int]


class Cache(NamedTuple):
    """
    The cache, as far as the feed may know it.

    look: have the step loop see how it is; the answer comes in the event loop.
    Raises Stopping.  is_ready: whether the engine runs.
    """

    group_epoch: int
    page_size: int
    journal: CacheJournal
    look: Callable[[Callable[[CacheState], None]], None]
    is_ready: Callable[[], bool]


class Reader:
    """Lines for one connection that were not sent yet."""

    def __init__(self, max_unread_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._max_unread_bytes = max_unread_bytes
        self._unread = bytearray()  # grows without being copied each time
        self._changed = asyncio.Event()
        self._is_over = False
        self.is_told = False
        """Whether it was told all, so that changes mean something to it."""

    def push(self, lines: bytes) -> None:
        """Add lines; if too many wait already, this is the end."""
        if self._unread and len(self._unread) + len(lines) > self._max_unread_bytes:
            self.end()
        elif lines and not self._is_over:
            self._unread += lines
            self._changed.set()

    def end(self) -> None:
        """Nothing more comes, and what was not taken is dropped."""
        self._is_over, self._unread = True, bytearray()
        self._changed.set()

    async def next(self) -> bytes:
        """Wait for lines and take all there are; nothing at the end."""
        await self._changed.wait()
        lines, self._unread = bytes(self._unread), bytearray()
        if not self._is_over:
            self._changed.clear()
        return lines


class PrefixFeed:
    """Reads the journal for all readers.  Runs in the event loop, only while there are some."""

    def __init__(self, cache: Cache, poll_s: float = POLL_S) -> None:
        self._cache = cache
        self._poll_s = poll_s
        self._readers: set[Reader] = set()
        self._polling: asyncio.Task[None] | None = None
        self._is_asked = False
        self._num_polls = 0

    def open(self) -> Reader:
        """Begin to tell a reader all there is.  Raises Stopping.  Whoever opens it closes it."""
        if not self._cache.is_ready():
            raise Stopping
        self._ask()
        reader = Reader()
        self._readers.add(reader)
        if self._polling is None:
            self._polling = asyncio.get_running_loop().create_task(self._poll_on())
        return reader

    def close(self, reader: Reader) -> None:
        """The reader has gone."""
        self._readers.discard(reader)

    def poll(self) -> None:
        """Tell what has changed since the last time, and now and then that nothing has."""
        self._num_polls += 1
        if not self._cache.is_ready():
            for reader in self._readers:
                reader.end()
        elif not self._is_asked:
            part = self._cache.journal.read()
            self._tell(part)
            if not part.is_complete:
                self._ask()
        if self._num_polls % POLLS_PER_HEARTBEAT == 0:
            for reader in self._readers:
                reader.push(_HEARTBEAT)

    async def _poll_on(self) -> None:
        while self._readers:
            self.poll()
            await asyncio.sleep(self._poll_s)
        self._polling = None

    def _ask(self) -> None:
        if not self._is_asked:
            self._cache.look(self._answer)
            self._is_asked = True

    def _answer(self, state: CacheState) -> None:
        self._is_asked = False
        self._tell(state.part)
        untold = [reader for reader in self._readers if not reader.is_told]
        if untold:
            begun = {"epoch": self._cache.group_epoch, "page_size": self._cache.page_size}
            lines = b"".join((_line(begun), *_lines("stored", state.digests)))
            for reader in untold:
                reader.push(lines)
                reader.is_told = True

    def _tell(self, part: JournalPart) -> None:
        """Pass changes on to those who know what was before."""
        if part.is_complete:
            lines = _lines_of(part.events)
            for reader in self._readers:
                if reader.is_told:
                    reader.push(lines)
        else:
            for reader in self._readers:
                reader.is_told = False


class PrefixEvents:
    """The endpoint."""

    def __init__(self, feed: PrefixFeed) -> None:
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell one front door, until it leaves, is too slow, or the engine stops."""
        try:
            reader = self._feed.open()
        except WorkerError as error:
            return await send_error(send, from_error(error))
        watcher = asyncio.create_task(watch(receive, reader.end))
        headers = [(b"content-type", b"application/x-ndjson")]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while lines := await reader.next():
                await send({"type": "http.response.body", "body": lines, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            watcher.cancel()
            self._feed.close(reader)


def _lines_of(events: Iterable[CacheEvent]) -> bytes:
    """Changes in their order, those of one kind that follow each other put together."""
    runs = groupby(events, key=lambda event: event.change)
    return b"".join(
        line
        for change, run in runs
        for line in _lines(change.value, list(chain.from_iterable(event.digests for event in run)))
    )


def _lines(name: str, digests: Sequence[int]) -> Iterator[bytes]:
    for start in range(0, len(digests), _DIGESTS_PER_LINE):
        yield _line({name: digests[start : start + _DIGESTS_PER_LINE]})


def _line(news: Mapping[str, object]) -> bytes:
    return orjson.dumps(news) + b"\n"
