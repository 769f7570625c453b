"""
The step's cost model: what a group's load adds to the time that a step takes.

    L = a * (K + W) + b * n + c * W      milliseconds; a, b, c: StepCost

K: KV tokens of its requests; W: prompt tokens not computed yet; n: requests.

The coefficients are fitted to the step times that groups report, either of two ways,
whichever explains more:

    joint   groups wait for each other:   T = base + a * max K + b * max n + c * max p
    own     each group for itself:        T_g = base + a * K_g + b * n_g + c * p_g

with p the prompt tokens computed in that step.  A fit must not be able to do harm:

* it begins with the prior, and returns to it when it explains less than half;
* b / a and c / a stay within a factor of the prior's, none of the three below zero, and
  only c may be zero: in groups that compute no prompts;
* steps that say nothing (all alike) change nothing;
* a window of samples is all that it remembers, so what was wrong is gone with it.

A decision does no work here, and a batch of reports little and bounded: samples are kept,
one batch in G / 8.  The fitting itself takes milliseconds; who has a quiet moment calls
`refit`, and if nobody does, every 256th sample.  Belongs to one front door; pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from balancer.load import GroupLoad
from balancer.regression import Centred, Line, r_squared, robust_line
from shm.load import LoadReport

LEAST_R_SQUARED = 0.5
MAX_RATIO = 16.0
"""How many times the prior's b / a and c / a those of a fit may be, or one part in so many."""
STEPS_OF_A_REQUEST = 512
"""S: for so many steps a request is taken to stay, to weigh computing a prompt, which happens
once, against holding it, which costs every step."""
WINDOW = 256
MIN_SAMPLES = 64
_REPORTS_PER_BATCH = 8  # on average
_LEAST_SPREAD = 0.02  # of the mean step time, as a standard deviation
_MAX_AGE_NS = 1_000_000_000  # against the newest report: older ones are of another step
_MAX_STEP_MS = 600_000.0
_NS_PER_MS = 1e6
_NO_PREFILL = 1024  # samples in a row, of groups that compute no prompts


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
    """One step: what was held, what it computed of prompts, and how long it took."""

    kv_tokens: int
    requests: int
    prefill_tokens: int
    step_ms: float

    @property
    def is_sane(self) -> bool:
        """Whether it can be of a step at all."""
        loads = self[:3]
        return min(loads) >= 0 < max(loads) < 1 << 40 and 0 < self.step_ms <= _MAX_STEP_MS


_SAMPLED_NS = attrgetter("sampled_ns")
_STEPS = attrgetter("num_steps")
_STEP_NS = attrgetter("step_time_ns")
_KV = attrgetter("kv_used_tokens")
_RUNNING = attrgetter("running_requests")
_PREFILL = attrgetter("step_prefill_tokens")


class CostFit:
    """Owns the coefficients in use, and the samples that they come from."""

    def __init__(self, prior: StepCost = PRIOR) -> None:
        self.step_cost = self._found = self._prior = prior
        self.r_squared = 0.0
        """Of the last fit, used or not; 0 before the first."""
        self.is_fitted = False
        """Whether the coefficients in use are fitted ones."""
        self._joint: deque[Sample] = deque(maxlen=WINDOW)
        self._own: deque[Sample] = deque(maxlen=WINDOW)
        self._credit = 0
        self._num_new = 0
        self._num_without_prefill = 0
        self._next_rank = 0
        self._seen_steps: dict[int, int] = {}
        self._seen_joint = (0, 0)

    def __repr__(self) -> str:
        origin = f"fitted, R2 {self.r_squared:.2f}" if self.is_fitted else "prior"
        return f"<CostFit {self.step_cost}, {origin}>"

    def observe(self, newest: Sequence[LoadReport | None]) -> None:
        """Take samples from the newest report of each group, by dp_rank."""
        self._credit += _REPORTS_PER_BATCH
        if self._credit < len(newest):
            return
        self._credit = 0
        reports = [report for report in newest if report is not None]
        if reports:
            self._sample_joint(reports)
            self._sample_own(reports)
        if self._num_new >= WINDOW:
            self.refit()

    def refit(self) -> None:
        """Work the coefficients out anew, if there are new samples enough."""
        if self._num_new < MIN_SAMPLES // 2:
            return
        self._num_new = 0
        fits = [_fit(window, self._prior) for window in (self._joint, self._own)]
        known = [fit for fit in fits if fit is not None]
        if known:
            self._take(max(known, key=attrgetter("r_squared")))
        self.step_cost = self._found
        if self._num_without_prefill >= _NO_PREFILL:
            self.step_cost = self._found._replace(per_prefill_token_ms=0.0)

    def _take(self, fit: Fit) -> None:
        self.r_squared = fit.r_squared
        self.is_fitted = fit.r_squared >= LEAST_R_SQUARED
        self._found = fit.step_cost if self.is_fitted else self._prior

    def _sample_joint(self, reports: Sequence[LoadReport]) -> None:
        """The heaviest of all groups, as if they waited for each other."""
        oldest_ns = max(map(_SAMPLED_NS, reports)) - _MAX_AGE_NS
        present = [report for report in reports if report.sampled_ns >= oldest_ns]
        step = (max(map(_STEPS, present)), max(map(_STEP_NS, present)))
        if step == self._seen_joint:
            return
        self._seen_joint = step
        held = (max(map(_KV, present)), max(map(_RUNNING, present)), max(map(_PREFILL, present)))
        sample = Sample(*held, step[1] / _NS_PER_MS)
        if not sample.is_sane:
            return
        self._joint.append(sample)
        self._num_new += 1
        self._num_without_prefill = 0 if sample.prefill_tokens else self._num_without_prefill + 1

    def _sample_own(self, reports: Sequence[LoadReport]) -> None:
        """Some groups, each by itself; others the next time."""
        first = self._next_rank % len(reports)
        chosen = reports[first : first + _REPORTS_PER_BATCH]
        self._next_rank = first + len(chosen)
        for report in chosen:
            if self._seen_steps.get(report.dp_rank) == report.num_steps:
                continue
            self._seen_steps[report.dp_rank] = report.num_steps
            held = (report.kv_used_tokens, report.running_requests, report.step_prefill_tokens)
            sample = Sample(*held, report.step_time_ns / _NS_PER_MS)
            if sample.is_sane:
                self._own.append(sample)


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
    line, counts = robust_line(columns, times_ms)
    centred = Centred.of(columns, times_ms, counts)
    deviation = (centred.spread_y / sum(counts)) ** 0.5
    if deviation < _LEAST_SPREAD * centred.mean_y or not any(line.weights):
        return None
    bounded = _bounded(line)
    fitted = StepCost._make(map(float.__mul__, bounded, prior))
    return Fit(fitted, r_squared(bounded, centred))


def _bounded(line: Line) -> tuple[float, float, float]:
    """The weights, times the prior's coefficients, with ratios that can do no harm."""
    a, b, c = line.weights
    a = max(a, b / MAX_RATIO, c / MAX_RATIO)
    least = a / MAX_RATIO
    return a, max(b, least), max(c, least)
