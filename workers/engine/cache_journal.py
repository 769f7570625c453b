"""
What has become of the pages of a prefix cache, for who keeps an index of it elsewhere.

A page is named by its digest (see shm.page_digest).  The journal holds a bounded
number of digests.  If nobody reads it, it forgets them and says so once; the
reader then asks the cache for all.

The step loop writes, and whoever tells others reads, each in its own thread.  A
lock is held while a list is exchanged or appended to, and never longer, so that
a reader costs the step loop nothing, however slow it is with what it has read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

MAX_UNREAD_DIGESTS = 65_536


class Change(Enum):
    """What became of pages."""

    STORED = "stored"
    EVICTED = "evicted"


class CacheEvent(NamedTuple):
    """Pages that became cached, or are no longer, in the order in which it happened."""

    change: Change
    digests: tuple[int, ...]


class JournalPart(NamedTuple):
    """What happened since the last reading.  is_complete: nothing before it was forgotten."""

    events: tuple[CacheEvent, ...]
    is_complete: bool


class CacheJournal:
    """Written by one prefix cache, read by one other; each may have its own thread."""

    def __init__(self, max_unread_digests: int = MAX_UNREAD_DIGESTS) -> None:
        self._max_unread_digests = max_unread_digests
        self._events: list[CacheEvent] = []
        self._num_unread_digests = 0
        self._is_complete = True
        self._lock = threading.Lock()

    def note(self, change: Change, digests: Sequence[int]) -> None:
        """Add an event; too many that nobody reads are forgotten together."""
        with self._lock:
            self._num_unread_digests += len(digests)
            if self._num_unread_digests > self._max_unread_digests:
                self._events, self._num_unread_digests, self._is_complete = [], 0, False
            elif self._is_complete:
                self._events.append(CacheEvent(change, tuple(digests)))

    def read(self) -> JournalPart:
        """Return what happened since the last reading, and start afresh."""
        with self._lock:
            events, is_complete = self._events, self._is_complete
            self._events, self._num_unread_digests, self._is_complete = [], 0, True
        return JournalPart(tuple(events), is_complete)
