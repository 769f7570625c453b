"""Which events are of which group."""

from __future__ import annotations

from typing import NamedTuple

from shm.group_table import GroupEntry


class RankSource(NamedTuple):
    """One life of a group that publishes what it caches."""

    dp_rank: int
    group_epoch: int
    endpoint: str
    replay_endpoint: str
    """Empty: what was missed cannot be had again."""
    engine: str


def source_of(entry: GroupEntry) -> RankSource | None:
    """That of a row of the table; None if its group publishes nothing."""
    if not entry.kv_events:
        return None
    return RankSource(entry.dp_rank, entry.epoch, entry.kv_events, entry.kv_replay, entry.engine)
