"""The score of vLLM."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from shm.load import LoadReport

PUBLISH_EVERY_NS = 100_000_000
_FREE_KV_USAGE = 0.5
_WAITING_FACTOR = 6.0


@dataclass(slots=True)
class _Counts:
    """What a front door believes of one engine."""

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0


class VllmScore(Policy):
    """
    vLLM 0.33's balancing of data-parallel engines, with its delay: to compare with.

        max(f * own, waiting + running) + waiting * 6 * max(0, kv_usage - 0.5)

    argmin, from a start that goes round.  f is the number of front doors, own the requests
    that this one has open on the engine.  waiting, running and kv_usage are those of a list of
    all engines that arrives every 100 ms; meanwhile a front door adds f to waiting
    of the engine that it sends to, and the next list overwrites that.

    The only clock are the reports' own times, so a list that is due arrives with the first
    report after it, and where not every step's report is seen, as in a front door that reads
    when it decides, the list is as new as that.  Engines that are dead or full are no
    candidates here.  Unit: requests, blind to their lengths.  Choose min_step_cost instead.
    """

    name: ClassVar[str] = "vllm_score"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._start: int | None = None
        self._ledger: Ledger | None = None
        self._list_ns = 0
        self._newest: dict[int, LoadReport] = {}
        self._counts: dict[int, _Counts] = {}

    def read(self, ledger: Ledger) -> None:
        """See what engines have reported, and what is open on them."""
        self._ledger = ledger
        self.watch(report for report in ledger.reports if report is not None)

    def watch(self, reports: Iterable[LoadReport]) -> None:
        """See reports, and the list of all engines if it is time; old ones do no harm."""
        now_ns = 0
        for report in reports:
            before = self._newest.get(report.dp_rank)
            if before is None or _life(before) < _life(report):
                self._newest[report.dp_rank] = report
                now_ns = max(now_ns, report.sampled_ns)
        if now_ns - self._list_ns >= PUBLISH_EVERY_NS:
            self._list_ns = now_ns
            self._counts = {rank: _counts(report) for rank, report in self._newest.items()}

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the group of least score; of equals the first from where it begins."""
        ranks = [load.dp_rank for load in candidates]
        first = self._begin(ranks)
        scores = [self._score(rank) for rank in ranks]
        least = min((*scores[first:], *scores[:first]))
        ahead = least in scores[first:]
        picked = ranks[scores.index(least, first if ahead else 0)]
        self._counts.setdefault(picked, _Counts()).waiting += self._num_front_doors
        return Choice(picked, Why.LEAST_SCORE, scores, None, scores.count(least))

    @property
    def _num_front_doors(self) -> int:
        return 1 if self._ledger is None else self._ledger.num_front_doors

    def _begin(self, ranks: Sequence[int]) -> int:
        """Index of the rank to begin with: one further each time."""
        self._start = self._rng.randrange(len(ranks)) if self._start is None else self._start + 1
        return self._start % len(ranks)

    def _score(self, dp_rank: int) -> float:
        counts = self._counts.get(dp_rank, _Counts())
        own = 0 if self._ledger is None else self._ledger.own_book(dp_rank).requests
        score = float(max(self._num_front_doors * own, counts.waiting + counts.running))
        if counts.waiting:
            score += counts.waiting * _WAITING_FACTOR * max(0.0, counts.kv_usage - _FREE_KV_USAGE)
        return score


def _life(report: LoadReport) -> tuple[int, int]:
    return report.group_epoch, report.sampled_ns


def _counts(report: LoadReport) -> _Counts:
    usage = report.kv_used_tokens / max(1, report.kv_capacity_tokens)
    return _Counts(report.waiting_requests, report.running_requests, usage)
