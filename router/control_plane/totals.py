"""
Asks the groups what the requests that have left them amounted to.

Of groups that wait for each other, one leader tells with it what that costs them all.

Each question names the life of the group that the table has, so no figures of
another life come under its name.  A group that does not answer in time, or has
no such figures, is left out: no scrape fails for it.  Its series are missing then,
and a warning says so once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from router.control_plane.barrier_figures import BarrierFigures
from shm.group_table import GroupEntry, GroupState

_log = logging.getLogger("levelhead.control_plane")
_TIMEOUT_S = 2.0
_NO_TOTALS = (ValueError, KeyError, TypeError)
_NOBODY_TO_ASK = (GroupState.STARTING, GroupState.DEAD)


class Totals(NamedTuple):
    """A group's sums over the requests that have left it; see workers/engine/totals.py."""

    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    recomputed_tokens: int
    output_tokens: int
    retractions: int
    barrier: BarrierFigures | None = None
    """Of all groups; from the one whose leader knows."""

    @classmethod
    def from_json(cls, told: Any) -> Totals:
        """What a leader answers.  Raises ValueError, KeyError or TypeError for anything else."""
        fields = dict(told)
        barrier = fields.get("barrier")
        figures = [int(fields[name]) for name in cls._fields[:-1]]
        known = None if barrier is None else BarrierFigures.from_json(barrier)
        return cls._make([*figures, known])


class TotalsReader:
    """Asks leaders over HTTP."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """`client` is for this alone, and must allow a connection for each group."""
        self._client = client
        self._silent: set[int] = set()
        """Groups that told nothing when they were asked last."""

    async def read(self, groups: Sequence[GroupEntry]) -> Mapping[int, Totals]:
        """Totals by dp_rank, of those that answer."""
        asked = [e for e in groups if e.state not in _NOBODY_TO_ASK and not e.is_backend]
        answers = await asyncio.gather(*map(self._ask, asked))
        told = zip(asked, answers, strict=True)
        return {entry.dp_rank: totals for entry, totals in told if totals is not None}

    async def _ask(self, entry: GroupEntry) -> Totals | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._client.get(
                    f"http://{entry.host}:{entry.port}/totals",
                    headers={"x-levelhead-group-epoch": str(entry.epoch)},
                )
            answer.raise_for_status()
            totals = Totals.from_json(answer.json())
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, *_NO_TOTALS) as error:
            if entry.dp_rank not in self._silent:
                _log.warning("DP group %d tells no totals: %r", entry.dp_rank, error)
            self._silent.add(entry.dp_rank)
            return None
        self._silent.discard(entry.dp_rank)
        return totals
