"""Total tokens, as SGLang has it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from shm.load import LoadReport

STEPS_PER_PUBLISH = 15
STALLED_NS = 50_000_000
READ_EVERY_NS = 20_000_000


class _Figures(NamedTuple):
    tokens: int
    requests: int


class TotalTokens:
    """
    SGLang 0.5's `total_tokens`, with its delays: to compare with.

    argmin (tokens, requests), ties to the lowest rank.  A scheduler's tokens are its used
    KV and the lengths of its queued requests.  It publishes them at once when it has
    computed prompts or runs nothing, else every 15 steps, and every 50 ms while it is stalled.
    The dispatcher reads them every 20 ms at most, all at once, and adds a prompt's tokens
    and one request to a rank that it sends to; the next reading overwrites that, whether
    the rank has taken the request in by then or not.

    The only clock are the reports' own times and step counts, so a reading that is due
    happens with the first batch of reports after it.  Two things differ: ranks that are
    dead or full are no candidates here, and in a report the remainder of a chunked
    prompt, which SGLang counts nowhere, can be told from queued prompts only if
    none is queued.  Unit: tokens.  Choose minimum_tokens or better instead.
    """

    name: ClassVar[str] = "total_tokens"

    def __init__(self, rng: random.Random) -> None:
        """Nothing is left to chance."""
        self._published: dict[int, LoadReport] = {}
        self._visible: dict[int, _Figures] = {}
        self._read_ns = 0

    def read(self, ledger: Ledger) -> None:
        """See what schedulers have published, if it is time to look."""
        reports = [report for report in ledger.reports if report is not None]
        for report in reports:
            before = self._published.get(report.dp_rank)
            if before is None or _is_published(before, report):
                self._published[report.dp_rank] = report
        now_ns = max((report.sampled_ns for report in reports), default=0)
        if now_ns - self._read_ns >= READ_EVERY_NS:
            self._read_ns = now_ns
            self._visible = {rank: _figures(seen) for rank, seen in self._published.items()}

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the dp_rank that seems to have the fewest tokens."""
        seen, nothing = self._visible, _Figures(0, 0)
        ranks = [load.dp_rank for load in candidates]
        picked = min(ranks, key=lambda rank: (seen.get(rank, nothing), rank))
        tokens, requests = seen.get(picked, nothing)
        seen[picked] = _Figures(tokens + request.prompt_tokens, requests + 1)
        return picked


def _is_published(before: LoadReport, now: LoadReport) -> bool:
    if now.group_epoch != before.group_epoch:
        return True
    num_steps = now.num_steps - before.num_steps
    if num_steps and (now.step_prefill_tokens or num_steps >= STEPS_PER_PUBLISH):
        return True
    is_stalled = not num_steps and now.sampled_ns - before.sampled_ns >= STALLED_NS
    return is_stalled or not now.running_requests


def _figures(report: LoadReport) -> _Figures:
    queued = report.holding_tokens - report.kv_used_tokens if report.waiting_requests else 0
    return _Figures(
        report.kv_used_tokens + queued, report.running_requests + report.waiting_requests
    )
