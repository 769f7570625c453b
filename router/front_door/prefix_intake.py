"""
Follows what is told of groups' prefix caches: one task for each ready group.

    ready ──► connect ──► read lines ──► lost ──► pause ──┐      the group leaves the table, is
                 ▲                                        │      dead or draining: the task ends
                 └────────────────────────────────────────┘

A worker's leader tells of its own group; of a backend's the control plane does, which reads its
KV events.  A task lives as long as its group is ready (or suspect) in one epoch; it needs no
traffic and nobody waits for it.  What the lines say is in workers/server/prefix_feed.py; all is
told anew on each connection, so whatever was missed does not matter.
While a group is not followed, what it told last stands, and requests go on: the
index only advises.  One warning when a group is lost, one line when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from balancer.prefix_index import Change, PrefixEvent
from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool
from shm.group_table import GroupEntry, GroupState

_log = logging.getLogger("levelhead.front_door")
_REQUEST = b"GET %s HTTP/1.1\r\nhost: group\r\nx-levelhead-instance-key: %s\r\n\r\n"
_FOLLOWED = (GroupState.READY, GroupState.SUSPECT)
_MAX_LINE_BYTES = 1 << 20  # a group's are below 32 KiB
_CHANGES = {"stored": Change.STORED, "evicted": Change.EVICTED}


class Pauses(NamedTuple):
    """Seconds.  A group tells something every second."""

    silence_s: float = 10.0
    """After which a connection counts as lost."""
    first_s: float = 0.2
    longest_s: float = 5.0
    """Before connecting again: doubled each time."""


class Unreadable(Exception):
    """What a group told is not what it should be; never leaves this module."""


class Whereabouts(NamedTuple):
    """Of those who tell, beside the groups themselves."""

    control_socket: str = ""
    """Where the control plane tells of backends."""
    instance_key: str = ""
    """What they all want to see."""


class Followed(NamedTuple):
    """One life of a group, and where it is told of."""

    dp_rank: int
    epoch: int
    address: Address
    target: bytes = b"/prefix_events"


class PrefixIntake:
    """Keeps the tasks; take: is told each event with the group's dp_rank and epoch."""

    def __init__(
        self,
        pool: UpstreamPool,
        take: Callable[[int, int, PrefixEvent], None],
        pauses: Pauses = Pauses(),  # noqa: B008  a tuple of constants
        *,
        whereabouts: Whereabouts = Whereabouts(),  # noqa: B008  a tuple of constants
        on_page_size: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_page_size`: page_sizes has changed."""
        self._whereabouts = whereabouts
        self._on_page_size = on_page_size
        self.page_sizes: dict[Followed, int] = {}
        """Of those that told theirs."""
        self._pool = pool
        self._take = take
        self._pauses = pauses
        self._tasks: dict[Followed, asyncio.Task[None]] = {}
        self._connected: set[Followed] = set()

    @property
    def num_connected(self) -> int:
        """Groups that are telling, and were heard of within silence_s."""
        return len(self._connected)

    def follow(self, groups: tuple[GroupEntry, ...]) -> None:
        """Follow those that are ready now, and no others."""
        ready = {self._followed(entry) for entry in groups if entry.state in _FOLLOWED}
        for group in self._tasks.keys() - ready:
            self._tasks.pop(group).cancel()
            self.page_sizes.pop(group, None)
        loop = asyncio.get_running_loop()
        for group in ready - self._tasks.keys():
            self._tasks[group] = loop.create_task(self._keep_following(group))

    def stop(self) -> None:
        """Follow nobody any more."""
        self.follow(())

    def _followed(self, entry: GroupEntry) -> Followed:
        if not entry.is_backend:
            return Followed(entry.dp_rank, entry.epoch, Address(entry.host, entry.port))
        address = Address(self._whereabouts.control_socket, 0)
        return Followed(entry.dp_rank, entry.epoch, address, b"/prefix_events/%d" % entry.dp_rank)

    async def _keep_following(self, group: Followed) -> None:
        pause_s, was_told = self._pauses.first_s, False
        while True:
            lines = _Lines(lambda line: self._take_line(group, line))
            reason = await self._follow_once(group, lines)
            if lines.was_heard or not was_told:
                _log.warning("DP group %d tells no prefixes: %s", group.dp_rank, reason)
                was_told = True
            pause_s = self._pauses.first_s if lines.was_heard else pause_s * 2
            await asyncio.sleep(min(pause_s, self._pauses.longest_s))

    async def _follow_once(self, group: Followed, lines: _Lines) -> str:
        """Read until it ends; return why it did."""
        try:
            connection = await self._pool.connect(group.address, dechunk=True)
        except OSError as error:
            return f"cannot connect: {str(error) or 'timed out'}"
        try:
            key = self._whereabouts.instance_key.encode()
            connection.send(lines, _REQUEST % (group.target, key))
            while not lines.lost.done():
                lines.is_silent = True
                await asyncio.wait((lines.lost,), timeout=self._pauses.silence_s)
                if lines.is_silent and not lines.lost.done():
                    return f"nothing was heard for {self._pauses.silence_s:g} s"
            return lines.lost.result()
        finally:
            self._connected.discard(group)
            connection.cancel()

    def _take_line(self, group: Followed, line: bytes) -> None:
        if group not in self._tasks:
            return  # its last words came after its task was told to end
        try:
            news = orjson.loads(line)
            event = None if news == {} else self._event(group, news)
        except ValueError as error:  # JSONDecodeError among them
            raise Unreadable(f"what it told cannot be read: {error}") from error
        if group not in self._connected:
            self._connected.add(group)
            _log.info("DP group %d tells its prefixes", group.dp_rank)
        if event is not None:
            self._take(group.dp_rank, group.epoch, event)

    def _event(self, group: Followed, news: Any) -> PrefixEvent:
        if not isinstance(news, dict) or (len(news) > 1 and "epoch" not in news):
            raise ValueError("it is no object with one piece of news")
        if "epoch" in news:
            if news["epoch"] != group.epoch:
                raise ValueError(f"it is in epoch {news['epoch']}, not {group.epoch}")
            self._note_page_size(group, news.get("page_size"))
            return PrefixEvent(Change.BEGUN)
        ((name, digests),) = news.items()
        if name not in _CHANGES or not isinstance(digests, list):
            raise ValueError(f"{name!r} is no news")
        if not all(type(digest) is int for digest in digests):
            raise ValueError("a digest is no integer")
        return PrefixEvent(_CHANGES[name], digests)

    def _note_page_size(self, group: Followed, size: object) -> None:
        if type(size) is not int or size < 0:
            raise ValueError(f"its pages are of {size!r} tokens")
        if self.page_sizes.get(group) != size:
            self.page_sizes[group] = size
            self._on_page_size()


class _Lines:
    """Cuts what comes into lines; `lost` is why no more come."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_silent = False
        self.was_heard = False
        self._take = take
        self._rest = b""
        self._status = 0

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        self._status = status
        if status == 200:
            self.on_data(data)
        else:
            self.on_lost(f"it answers with status {status}")

    def on_data(self, data: bytes) -> None:
        if self.lost.done() or not data:
            return
        self.is_silent = False
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                self._take(line)
                self.was_heard = True
            if len(self._rest) > _MAX_LINE_BYTES:
                raise Unreadable(f"a line is over {_MAX_LINE_BYTES} bytes")
        except Unreadable as error:
            self.on_lost(str(error))

    def on_end(self) -> None:
        self.on_lost("it has ended")

    def on_lost(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
