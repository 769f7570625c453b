"""
The group table as it is published: told when it changes, and what of it is news.

It also tells since when each group serves: it has watched all of them change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from router.control_plane.member import Member
from shm.group_table import GroupEntry, GroupState, GroupTableWriter

_log = logging.getLogger("levelhead.control_plane")
_IDLE = (GroupState.STARTING, GroupState.RELEASED, GroupState.DEAD)
_BAD = (GroupState.DEAD, GroupState.SUSPECT)


class Table:
    """Publishes members' rows; the only writer of the segment."""

    def __init__(
        self,
        writer: GroupTableWriter,
        clock_ns: Callable[[], int],
        found: tuple[GroupEntry, ...] = (),
    ) -> None:
        """`found` is the table that an earlier life of the control plane left."""
        self._writer = writer
        self._clock_ns = clock_ns
        self._published = found
        self._was_published = bool(found)
        """Whether there is any table: one of nobody is one."""

    def publish(self, members: Sequence[Member]) -> None:
        """Publish their rows if any has changed, and log each change of state or life."""
        before = {entry.dp_rank: entry for entry in self._published}
        groups = tuple(
            self._since(member.entry, before.get(member.entry.dp_rank)) for member in members
        )
        if groups == self._published and self._was_published:
            return
        self._was_published = True
        for member in members:
            entry, was = member.entry, before.get(member.entry.dp_rank)
            if was is None or (was.state, was.epoch) != (entry.state, entry.epoch):
                is_bad = entry.state in _BAD and not member.is_leaving
                level = logging.WARNING if is_bad else logging.INFO
                _log.log(level, "DP group %d is %s", entry.dp_rank, entry.state)
        for dp_rank in before.keys() - {entry.dp_rank for entry in groups}:
            _log.info("DP group %d is gone: its slot is free", dp_rank)
        self._published = groups
        self._writer.publish(groups, self._clock_ns())

    def _since(self, entry: GroupEntry, before: GroupEntry | None) -> GroupEntry:
        """The row with the time since when its group serves: now, if it did not before."""
        goes_on = before is not None and before.epoch == entry.epoch and entry.state not in _IDLE
        since_ns = before.ready_since_ns if before is not None and goes_on else 0
        if entry.state is GroupState.READY and not since_ns:
            since_ns = self._clock_ns()
        return replace(entry, ready_since_ns=since_ns)
