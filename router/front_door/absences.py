"""
Since when groups of ours do not serve, and whether to wait for them.

A worker of ours that does not serve is being started again, so a request that nobody else can
take waits for it, for `max_restart_wait_s` from when the group was missed.  A group that keeps
failing is missed from its first failure on, so an outage that lasts is waited out once, and not
by each request anew.  Not waited for are backends, of which nobody knows whether they come back,
and groups whose memory is released: these live, and serve again when somebody tells them to.

Pure: it is told the table and the time.
"""

from __future__ import annotations

from collections.abc import Iterable

from balancer.candidates import CANDIDATES
from shm.group_table import GroupEntry, GroupState

_NS_PER_S = 1_000_000_000
_NOT_STARTING_AGAIN = (*CANDIDATES, GroupState.RELEASED)


class Absences:
    """Belongs to one front door."""

    def __init__(self, max_restart_wait_s: float) -> None:
        """0: nobody is waited for."""
        self._max_ns = round(max_restart_wait_s * _NS_PER_S)
        self._since_ns: dict[int, int] = {}

    def observe(self, groups: Iterable[GroupEntry], now_ns: int) -> None:
        """The table as it is now."""
        for group in groups:
            if group.is_backend or group.state in _NOT_STARTING_AGAIN:
                self._since_ns.pop(group.dp_rank, None)
            else:
                self._since_ns.setdefault(group.dp_rank, now_ns)

    def may_end(self, dp_rank: int | None, now_ns: int) -> bool:
        """Whether that group, or any, is away and still waited for."""
        if dp_rank is None:
            since = list(self._since_ns.values())
        else:
            since = [self._since_ns[dp_rank]] if dp_rank in self._since_ns else []
        return any(now_ns - since_ns < self._max_ns for since_ns in since)

    def has_given_up(self, since_ns: int, now_ns: int) -> bool:
        """Whether a group is waited for no more, and was at that time."""
        ends = (missed_ns + self._max_ns for missed_ns in self._since_ns.values())
        return any(since_ns < end_ns <= now_ns for end_ns in ends)
