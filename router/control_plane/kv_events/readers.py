"""
Reads the KV events of all groups that publish any: a task for each life of a group.

Follows the group table, as front doors do: a group that comes is read, one that goes is not,
and one of another epoch or at another place is read anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from router.control_plane.kv_events.condition import KvCondition
from router.control_plane.kv_events.events import KvEvent
from router.control_plane.kv_events.group_feed import GroupFeed
from router.control_plane.kv_events.rank import Rank
from router.control_plane.kv_events.source import RankSource, source_of
from shm.group_table import GroupEntry

_BEAT_S = 1.0


class Wire(NamedTuple):
    """How events come; what needs the extra's libraries stays behind this."""

    read: Callable[[Rank], Awaitable[None]]
    """Hands all that is heard to a rank, for ever."""
    decoded: Callable[[bytes], list[KvEvent]]
    """The events of a payload.  Raises Unreadable."""


class _Reading(NamedTuple):
    rank: Rank
    task: asyncio.Future[None]


class KvReaders:
    """Owns ranks and tasks; `groups`: the table as it is now."""

    def __init__(self, groups: Callable[[], Iterable[GroupEntry]], wire: Wire) -> None:
        self._groups = groups
        self._wire = wire
        self._readings: dict[RankSource, _Reading] = {}
        self._is_closed = False

    @property
    def ranks(self) -> list[Rank]:
        """Those that are read, by dp_rank."""
        return sorted((each.rank for each in self._readings.values()), key=_number)

    def feed(self, dp_rank: int) -> GroupFeed | None:
        """
        That of whoever has that dp_rank now; None if it publishes nothing.

        Who asks has seen a table, and ours is as new or newer: a group that has just come is read
        from here on, and nobody is told what one that has gone had cached.
        """
        self._follow()
        return next((rank.feed for rank in self.ranks if rank.source.dp_rank == dp_rank), None)

    def conditions(self) -> dict[int, KvCondition]:
        """What is wrong with the events of which group."""
        ranks = self.ranks
        found = {rank.source.dp_rank: rank.condition for rank in ranks if rank.condition}
        sizes = {rank.blocks.page_size for rank in ranks if rank.blocks.page_size}
        if len(sizes) > 1:
            for rank in ranks:
                found.setdefault(rank.source.dp_rank, KvCondition.PAGE_SIZE)
        return found

    async def keep(self) -> None:
        """Follow the table, for ever; every second, tell that we are there."""
        try:
            while True:
                self.look()
                await asyncio.sleep(_BEAT_S)
        finally:
            self.close()

    def look(self) -> None:
        """Read those that are in the table now, and no others.  Raises what a reader raised."""
        self._follow()
        for reading in self._readings.values():
            if reading.task.done():
                reading.task.result()
            reading.rank.feed.beat()

    def close(self) -> None:
        """Read nobody any more, for good, and let followers go."""
        self._is_closed = True
        self._follow()

    def _follow(self) -> None:
        groups = () if self._is_closed else self._groups()
        wanted = set(filter(None, map(source_of, groups)))
        for source in self._readings.keys() - wanted:
            self._end(self._readings.pop(source))
        for source in wanted - self._readings.keys():
            rank = Rank(source, self._wire.decoded)
            self._readings[source] = _Reading(rank, asyncio.ensure_future(self._wire.read(rank)))

    def _end(self, reading: _Reading) -> None:
        reading.task.cancel()
        reading.rank.feed.end()


def _number(rank: Rank) -> int:
    return rank.source.dp_rank
