"""Total tokens, as SGLang has it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from balancer.choice import Choice, Why
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from shm.load import LoadReport

STEPS_PER_PUBLISH = 15
STALLED_NS = 50_000_000
READ_EVERY_NS = 20_000_000


class _Figures(NamedTuple):
    tokens: int
    requests: int


class TotalTokens(Policy):
    """
    SGLang 0.5's `total_tokens`, with its delays: to compare with.

    argmin (tokens, requests), ties to the lowest rank.  A scheduler's tokens are its used
    KV and the lengths of its queued requests.  It publishes them at once when it has
    computed prompts or runs nothing, else with the 15th step since it did, and every 50 ms
    while it is stalled.  The dispatcher reads them as it dispatches, every 20 ms at most,
    and adds a prompt's tokens and one request to a rank that it sends to.  What it reads of
    a rank that has published since overwrites that, whether the rank has taken the request
    in by then or not; what it has read before it skips.

    The only clock are the reports' own times and step counts.  Where not every step's report
    is seen, as in a front door that reads when it decides, the figures of a step are those of
    the report nearest to it.  Three things differ: ranks that are dead or full are no
    candidates here; in a report the remainder of a chunked prompt, which SGLang counts
    nowhere, can be told from queued prompts only if none is queued; and a report comes after
    those that end with its step have gone, SGLang's figures just before.  Unit: tokens.
    Choose minimum_tokens or better instead.
    """

    name: ClassVar[str] = "total_tokens"

    def __init__(self, rng: random.Random) -> None:
        """Nothing is left to chance."""
        self._schedulers: dict[int, _Scheduler] = {}
        self._visible: dict[int, _Figures] = {}
        self._now_ns = self._read_ns = 0

    def read(self, ledger: Ledger) -> None:
        """See what groups have reported."""
        self.watch(report for report in ledger.reports if report is not None)

    def watch(self, reports: Iterable[LoadReport]) -> None:
        """See reports; old ones do no harm."""
        for report in reports:
            self._now_ns = max(self._now_ns, report.sampled_ns)
            scheduler = self._schedulers.get(report.dp_rank)
            if scheduler is None or scheduler.newest.group_epoch < report.group_epoch:
                self._schedulers[report.dp_rank] = _Scheduler(report)
            else:
                scheduler.see(report)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the group that seems to have the fewest tokens."""
        if self._now_ns - self._read_ns >= READ_EVERY_NS:
            self._read_ns = self._now_ns
            for rank, scheduler in self._schedulers.items():
                if (published := scheduler.take()) is not None:
                    self._visible[rank] = _figures(published)
        seen, nothing = self._visible, _Figures(0, 0)
        ranks = [load.dp_rank for load in candidates]
        figures = [seen.get(rank, nothing) for rank in ranks]
        tokens, requests = least = min(figures)
        picked = ranks[figures.index(least)]
        seen[picked] = _Figures(tokens + request.prompt_tokens, requests + 1)
        costs = [each.tokens for each in figures]
        num_equal = figures.count(least)
        return Choice(picked, Why.FEWEST_PUBLISHED_TOKENS, costs, None, num_equal)


class _Scheduler:
    """One life of one scheduler, as its reports tell it: what it has published, and when next."""

    def __init__(self, first: LoadReport) -> None:
        """It publishes as it begins."""
        self.newest = first
        self._published: LoadReport | None = first
        self._published_ns = first.sampled_ns
        self._counted_from = first.num_steps

    def see(self, now: LoadReport) -> None:
        """See its next report, or an older one, which is ignored."""
        before = self.newest
        if now.group_epoch != before.group_epoch or now.sampled_ns <= before.sampled_ns:
            return
        self.newest = now
        num_late = (now.num_steps - self._counted_from) % STEPS_PER_PUBLISH
        due = now.num_steps - num_late
        has_stepped = now.num_steps > before.num_steps
        is_stalled = not has_stepped and now.sampled_ns - self._published_ns >= STALLED_NS
        if (has_stepped and now.step_prefill_tokens) or not now.running_requests or is_stalled:
            self._publish(now, now.num_steps)
        elif due > self._counted_from:
            self._publish(now if num_late < due - before.num_steps else before, due)

    def take(self) -> LoadReport | None:
        """Return what it has published since this was asked before; None if nothing."""
        published, self._published = self._published, None
        return published

    def _publish(self, report: LoadReport, step: int) -> None:
        self._published = report
        self._published_ns = report.sampled_ns
        self._counted_from = step


def _figures(report: LoadReport) -> _Figures:
    queued = report.holding_tokens - report.kv_used_tokens if report.waiting_requests else 0
    return _Figures(
        report.kv_used_tokens + queued, report.running_requests + report.waiting_requests
    )
