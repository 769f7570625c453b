"""
Tells front doors what a backend's group has cached: all of it first, then what changes.

The lines are those that a leader of ours answers `GET /prefix_events` with:

    {"epoch": E, "page_size": P}    forget what this group told; all that it holds follows
    {"stored": [digest, ...]}       at most 1,024 of them a line
    {"evicted": [digest, ...]}
    {}                              nothing new, once a second

P is 0 until the engine has told a block.  A follower that takes its lines too slowly is cut off,
and is told all when it comes again.

All of it runs in one event loop, and nothing between reading the map and noting the follower
waits: what a follower is told first and what it is told then fit together without a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import orjson

from balancer.prefix_index import Change, PrefixEvent
from router.control_plane.kv_events.block_map import BlockMap

MAX_UNREAD_BYTES = 4 << 20
_DIGESTS_PER_LINE = 1024
_HEARTBEAT = b"{}\n"


class Follower:
    """Lines for one front door that were not sent yet."""

    def __init__(self, max_unread_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._max_unread_bytes = max_unread_bytes
        self._unread = bytearray()  # grows without being copied each time
        self._changed = asyncio.Event()
        self._is_over = False

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


class GroupFeed:
    """The followers of one group."""

    def __init__(self, group_epoch: int, blocks: BlockMap) -> None:
        self._group_epoch = group_epoch
        self._blocks = blocks
        self._page_size = 0
        self._followers: set[Follower] = set()
        self._is_over = False

    def open(self, max_unread_bytes: int = MAX_UNREAD_BYTES) -> Follower:
        """Begin to tell a follower all there is, or the end.  Whoever opens it closes it."""
        follower = Follower(max_unread_bytes)
        follower.push(self._all())
        if self._is_over:
            follower.end()
        self._followers.add(follower)
        return follower

    def close(self, follower: Follower) -> None:
        """The follower has gone."""
        self._followers.discard(follower)

    def begin(self) -> None:
        """What was told before does not hold: tell all that is there now."""
        self._page_size = self._blocks.page_size
        self._push(self._all())

    def tell(self, event: PrefixEvent) -> None:
        """That has changed, and is in the map."""
        if event.change is Change.BEGUN or self._page_size != self._blocks.page_size:
            self.begin()
        else:
            self._push(b"".join(_lines(event.change.value, event.digests)))

    def beat(self) -> None:
        """A second has passed."""
        self._push(_HEARTBEAT)

    def end(self) -> None:
        """The group is not followed any more, or this process stops."""
        self._is_over = True
        for follower in self._followers:
            follower.end()

    def _push(self, lines: bytes) -> None:
        for follower in self._followers:
            follower.push(lines)

    def _all(self) -> bytes:
        begun = {"epoch": self._group_epoch, "page_size": self._blocks.page_size}
        return b"".join((_line(begun), *_lines("stored", self._blocks.digests)))


def _lines(name: str, digests: Sequence[int]) -> Iterator[bytes]:
    for start in range(0, len(digests), _DIGESTS_PER_LINE):
        yield _line({name: digests[start : start + _DIGESTS_PER_LINE]})


def _line(news: Mapping[str, object]) -> bytes:
    return orjson.dumps(news) + b"\n"
