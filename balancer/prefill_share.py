"""
Whether groups compute the prompts that they accept, or get them with their KV.

    share = prompt tokens that were computed / tokens that were accepted

A step's report says what that step computed, and only some reports are looked at: each stands
for all steps since the one before of its group.  That is right on average, so it is judged after so
many accepted requests that some of their steps have been seen; and groups are looked at in
turn, for prompts that come to all of them at once would be missed in all.  A pool that prompts come
to with their KV computes what it had to retract and no more.  Pure; belongs to a CostFit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shm.load import LoadReport

LEAST_SHARE = 1 / 32
"""Below, groups compute no prompts.  Not zero: some are retracted in a pool, too; and not near
one: what is accepted counts tokens that a group may find in a cache nobody here knows of."""
REQUESTS_PER_GROUP = 8
"""Accepted until it is judged, on average."""
_MIN_LOOKS = 16


class _Seen(NamedTuple):
    """A group's counters at the last look."""

    num_steps: int
    tokens: int
    requests: int


class PrefillShare:
    """Owns that judgement; believes that prompts are computed until it is refuted."""

    def __init__(self) -> None:
        self.is_computed = True
        self._seen: dict[int, _Seen] = {}
        self._next_rank = 0
        self._begin()

    def observe(self, newest: Sequence[LoadReport | None]) -> None:
        """Look at the group whose turn it is; of each, by dp_rank, its newest report."""
        self._next_rank = (self._next_rank + 1) % len(newest)
        report = newest[self._next_rank]
        if report is None:
            return
        self._num_looks += 1
        self._look(report)
        is_enough = self._requests >= REQUESTS_PER_GROUP * len(self._seen)
        if is_enough and self._num_looks >= _MIN_LOOKS:
            self.is_computed = self._computed >= LEAST_SHARE * self._tokens
            self._begin()

    def begin_group(self, dp_rank: int) -> None:
        """The counters of that group begin anew."""
        self._seen.pop(dp_rank, None)

    def _begin(self) -> None:
        self._num_looks = self._computed = self._tokens = self._requests = 0

    def _look(self, report: LoadReport) -> None:
        """Count what happened since the last look; nothing if a counter began anew."""
        accepted = report.accepted
        now = _Seen(
            report.num_steps,
            sum(each.tokens for each in accepted),
            sum(each.requests for each in accepted),
        )
        before = self._seen.get(report.dp_rank)
        self._seen[report.dp_rank] = now
        if before is None or any(new < old for new, old in zip(now, before, strict=True)):
            return
        self._computed += (now.num_steps - before.num_steps) * max(0, report.step_prefill_tokens)
        self._tokens += now.tokens - before.tokens
        self._requests += now.requests - before.requests
