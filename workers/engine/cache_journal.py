"""
What has become of the pages of a prefix cache, for who keeps an index of it elsewhere.

A page is named by a digest of every token up to its end, so that a prompt's
digests can be computed without asking, and the longest cached prefix is as
many of them as are in the index:

    digest of page k = BLAKE2b-64(digest of page k - 1, the page's tokens)

all as little-endian words, 8 bytes for a digest (0 before the first page) and 4
for a token.  The journal holds a bounded number of digests.  If nobody reads
it, it forgets them and says so once; the reader then asks the cache for all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

MAX_UNREAD_DIGESTS = 65_536
NO_DIGEST = 0


def page_digest(before: int, tokens: Sequence[int]) -> int:
    """Return the digest of a page of tokens; before: that of the page before, or NO_DIGEST."""
    data = struct.pack(f"<Q{len(tokens)}I", before, *tokens)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


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
    """Written by one prefix cache, read by one other."""

    def __init__(self, max_unread_digests: int = MAX_UNREAD_DIGESTS) -> None:
        self._max_unread_digests = max_unread_digests
        self._events: list[CacheEvent] = []
        self._num_unread_digests = 0
        self._is_complete = True

    def note(self, change: Change, digests: Sequence[int]) -> None:
        """Add an event; too many that nobody reads are forgotten together."""
        self._num_unread_digests += len(digests)
        if self._num_unread_digests > self._max_unread_digests:
            self._events, self._num_unread_digests, self._is_complete = [], 0, False
        elif self._is_complete:
            self._events.append(CacheEvent(change, tuple(digests)))

    def read(self) -> JournalPart:
        """Return what happened since the last reading, and start afresh."""
        part = JournalPart(tuple(self._events), self._is_complete)
        self._events, self._num_unread_digests, self._is_complete = [], 0, True
        return part
