"""
The step's cost model: what a group's load adds to the time that a step takes.

    L = a * (K + W) + b * n + c * W      milliseconds; a, b, c: StepCost

K: KV tokens of its requests; W: prompt tokens not computed yet; n: requests.

The coefficients are fitted to the step times that groups report.  If these are alike, groups
wait for each other, and the sample of a step is the group that was the heaviest by what is
known so far; else it is one group after the other, each with its own time:

    T = base + a * K + b * n + c * p      p: prompt tokens computed in that step

Our own ranks in lock step all report the step that they have computed together, also those
that had nothing to compute in it, so their times are alike exactly (workers.lockstep.common_step).

(The largest K, n and p of any groups would fit worse: they seldom meet in one, and then their
sum is more than any group's.)  A fit must not be able to do harm:

* it begins with the prior, and returns to it when it explains less than half;
* b / a stays within a factor of the prior's, c / a below one, and only c may be zero: it
  is, at once, in groups that get them with their KV (balancer.prefill_share);
* where samples say little, what is believed is the prior's ratios, in the size of the samples;
  steps that are all alike change nothing;
* a window of samples is all that a fit remembers; while steps are alike the last one stays.

A decision does no work here, and a batch of reports little and bounded: they are looked through
once in G / 2 batches, for one sample.  The fitting itself takes milliseconds; who has a
quiet moment calls `refit`, and if nobody does, it happens at every 256th look.  Belongs to
one front door; pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter, mul
from statistics import median
from typing import NamedTuple

from balancer.load import GroupLoad
from balancer.prefill_share import PrefillShare
from balancer.regression import Line, r_squared, robust_line
from shm.load import LoadReport

LEAST_R_SQUARED = 0.5
MAX_REQUEST_RATIO = 4.0
"""How many times the prior's b / a that of a fit may be, or one part in so many of it."""
MAX_PREFILL_RATIO = 16.0
"""How many times the prior's c / a that of a fit may be."""
STEPS_OF_A_REQUEST = 512
"""S: for so many steps a request is taken to stay, to weigh computing a prompt, which happens
once, against holding it, which costs every step."""
WINDOW = 256
MIN_SAMPLES = 64
MIN_NEW = 16
_REPORTS_PER_BATCH = 2  # looked at, on average
_UNATTENDED = 256  # looks after which nobody seems to call refit
_ALIKE = 0.9  # of the longest step time, the shortest, if groups wait for each other
_MEMORY = 0.95  # of how often step times were alike
_SURE = 0.7  # of the looks, to change what is believed of waiting; between that and 0.3, it stays
_LEAST_SPREAD = 0.02  # of the mean step time, as a standard deviation
_MAX_AGE_NS = 1_000_000_000  # against the newest report: older ones are of another step
_MOST_TOKENS = 1 << 40
_NS_PER_MS = 1e6


class StepCost(NamedTuple):
    """What a group's load adds to the time that a step takes, in milliseconds."""

    per_token_ms: float
    """a: of each token that is held or on its way."""
    per_request_ms: float
    """b"""
    per_prefill_token_ms: float
    """c: of each prompt token that is not computed yet."""

    def cost_ms(self, load: GroupLoad) -> float:
        """The load's L."""
        return self.costs_ms((load,))[0]

    def costs_ms(self, loads: Iterable[GroupLoad]) -> list[float]:
        """L of each."""
        a, b, c = self
        return [
            a * (held + flying) + b * (num_held + num_flying) + c * uncached
            for _, held, flying, num_held, num_flying, uncached in loads
        ]

    def steady_costs_ms(self, loads: Iterable[GroupLoad]) -> list[float]:
        """L of each as it will be when all prompts are computed: a * (K + W) + b * n."""
        a, b, _ = self
        return [
            a * (held + flying) + b * (num_held + num_flying)
            for _, held, flying, num_held, num_flying, _ in loads
        ]

    def request_ms(self, prompt_tokens: int) -> float:
        """What a request adds to each step of its group, once it is computed: a * prompt + b."""
        return self.per_token_ms * prompt_tokens + self.per_request_ms

    @property
    def spread_prefill_ms(self) -> float:
        """c / S: what computing a token costs each of the steps that its request stays for."""
        return self.per_prefill_token_ms / STEPS_OF_A_REQUEST


PRIOR = StepCost(26e-6, 0.05, 0.1)
"""Latent attention of a large mixture of experts on a GPU of 2023; ratios matter, not size."""


class Sample(NamedTuple):
    """One step of a group: what it held and what it computed of prompts, and the time."""

    kv_tokens: int
    requests: int
    prefill_tokens: int
    step_ms: float

    @classmethod
    def of(cls, report: LoadReport) -> Sample:
        """The last step of the group that reports."""
        return cls(
            report.kv_used_tokens,
            report.running_requests,
            report.step_prefill_tokens,
            report.step_time_ns / _NS_PER_MS,
        )

    @property
    def is_sane(self) -> bool:
        """Whether it can be of a step at all."""
        return min(self) >= 0 and 0 < max(self[:3]) <= _MOST_TOKENS


_SAMPLED_NS = attrgetter("sampled_ns")
_STEP_NS = attrgetter("step_time_ns")


class CostFit:
    """Owns the coefficients in use, and the samples that they come from."""

    def __init__(self, prior: StepCost = PRIOR) -> None:
        self.step_cost = self._found = self._prior = prior
        self.r_squared = 0.0
        """Of the last fit, used or not; 0 before the first."""
        self.is_fitted = False
        """Whether the coefficients in use are fitted ones."""
        self._samples: deque[Sample] = deque(maxlen=WINDOW)
        self._credit = self._num_looks = self._num_new = 0
        self._next_rank = 0
        self._prefill_share = PrefillShare()
        self._share_alike = 0.5
        self._waits = False
        self._seen_steps: dict[int, int] = {}

    def __repr__(self) -> str:
        origin = f"fitted, R2 {self.r_squared:.2f}" if self.is_fitted else "prior"
        return f"<CostFit {self.step_cost}, {origin}>"

    @property
    def groups_wait(self) -> bool:
        """Whether groups seem to wait for each other at every step."""
        return self._waits

    def observe(self, newest: Sequence[LoadReport | None]) -> None:
        """Take a sample from the newest report of each group, by dp_rank, if it is time to."""
        for _ in range(min(_REPORTS_PER_BATCH, len(newest))):
            self._prefill_share.observe(newest)
        self._credit += _REPORTS_PER_BATCH
        if self._credit < len(newest):
            return
        self._credit = 0
        self._num_looks += 1
        reports = [report for report in newest if report is not None and report.step_time_ns > 0]
        if reports:
            self._look(reports)
        if self._num_looks >= _UNATTENDED:
            self.refit()

    def begin_group(self, dp_rank: int) -> None:
        """Somebody else has that number from now on: his counters are not the last one's."""
        self._seen_steps.pop(dp_rank, None)
        self._prefill_share.begin_group(dp_rank)

    def refit(self) -> None:
        """Work the coefficients out anew, if there are new samples enough."""
        self._num_looks = 0
        if self._num_new >= MIN_NEW:
            self._num_new = 0
            self._take(_fit(self._samples, self._prior))
        self.step_cost = self._found
        if not self._prefill_share.is_computed:
            self.step_cost = self._found._replace(per_prefill_token_ms=0.0)

    def _take(self, fit: Fit | None) -> None:
        if fit is not None:
            self.r_squared = fit.r_squared
            self.is_fitted = fit.r_squared >= LEAST_R_SQUARED
            self._found = fit.step_cost if self.is_fitted else self._prior

    def _look(self, reports: Sequence[LoadReport]) -> None:
        """Sample the heaviest if groups wait for each other, else the one whose turn it is."""
        present = _of_about_now(reports)
        self._judge(present)
        self._next_rank += 1
        turn = present[self._next_rank % len(present)]
        report = max(present, key=self._weight) if self._waits else turn
        if self._seen_steps.get(report.dp_rank) == report.num_steps:
            return
        self._seen_steps[report.dp_rank] = report.num_steps
        sample = Sample.of(report)
        if sample.is_sane:
            self._samples.append(sample)
            self._num_new += 1

    def _judge(self, present: Sequence[LoadReport]) -> None:
        """Whether groups wait for each other; samples of the other kind are of no use."""
        times_ns = list(map(_STEP_NS, present))
        are_alike = min(times_ns) >= _ALIKE * max(times_ns)
        self._share_alike += (1 - _MEMORY) * (are_alike - self._share_alike)
        share = 1 - self._share_alike if self._waits else self._share_alike
        if share > _SURE:
            self._waits = not self._waits
            self._samples.clear()

    def _weight(self, report: LoadReport) -> float:
        a, b, c = self._found
        held = a * report.kv_used_tokens + b * report.running_requests
        return held + c * report.step_prefill_tokens


def _of_about_now(reports: Sequence[LoadReport]) -> Sequence[LoadReport]:
    """Without those of groups that have fallen silent."""
    times_ns = list(map(_SAMPLED_NS, reports))
    oldest_ns = max(times_ns) - _MAX_AGE_NS
    if min(times_ns) >= oldest_ns:
        return reports
    return [report for report in reports if report.sampled_ns >= oldest_ns]


class Fit(NamedTuple):
    """Coefficients within their bounds, and what share of the spread they explain."""

    step_cost: StepCost
    r_squared: float


def _fit(samples: Sequence[Sample], prior: StepCost) -> Fit | None:
    """None if there are too few, or if they are all alike."""
    if len(samples) < MIN_SAMPLES:
        return None
    *loads, times_ms = zip(*samples, strict=True)
    columns = [
        [per_unit * value for value in column]
        for per_unit, column in zip(prior, loads, strict=True)
    ]
    found = robust_line(columns, times_ms)
    if found.deviation < _LEAST_SPREAD * median(times_ms) or not any(found.line.weights):
        return None
    bounded = _bounded(found.line)
    fitted = StepCost._make(map(mul, bounded, prior))
    return Fit(fitted, r_squared(bounded, found.sums))


def _bounded(line: Line) -> tuple[float, float, float]:
    """The weights, times the prior's coefficients, with ratios that can do no harm."""
    a, b, c = line.weights
    a = max(a, b / MAX_REQUEST_RATIO, c / MAX_PREFILL_RATIO)
    return a, max(b, a / MAX_REQUEST_RATIO), c
