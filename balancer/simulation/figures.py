"""
What a run is judged by.

Of steps, each weighed with its duration T, in the window in which traffic flows
(from where the first twentieth of the requests has arrived until the last has;
all steps if there are none in it):

    slowdown          sum of T / sum of T under perfect balance, which is the base plus the
                      mean over groups of what each adds to it
    kv_max_over_mean  mean of the largest over the mean KV of the groups
    barrier_idle      mean share of T in which a group waits for the slowest one

Without a barrier each group's steps count for themselves, weighed with the requests
that run in them too, and nobody waits.  Of requests: times to the first token and between tokens;
goodput is the share, of all, that completed within both limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from balancer.simulation.job import Job, Outcome

MAX_TTFT_S = 2.0
MAX_TPOT_S = 0.1


@dataclass(slots=True)
class StepFigures:
    """Sums over steps."""

    num_group_steps: int = 0
    time: float = 0.0
    level_time: float = 0.0
    kv_time: float = 0.0
    kv_ratio_time: float = 0.0
    idle_time: float = 0.0
    wall_time: float = 0.0

    def add(
        self, step_ms: float, level_ms: float, idle_share: float, kv: Sequence[int], weight: float
    ) -> None:
        """A step of that duration, which would have taken level_ms if all were level."""
        self.time += weight * step_ms
        self.level_time += weight * level_ms
        self.wall_time += step_ms
        self.idle_time += step_ms * idle_share
        total = sum(kv)
        if total:
            self.kv_time += step_ms
            self.kv_ratio_time += step_ms * max(kv) * len(kv) / total

    def merge(self, other: StepFigures) -> None:
        """Add another's sums."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class RunFigures(NamedTuple):
    """Figures of one run; None where nothing happened that they could tell of."""

    slowdown: float | None
    kv_max_over_mean: float | None
    barrier_idle: float | None
    goodput: float
    prefix_hit_rate: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    requests: int
    completed: int


def run_figures(steps: StepFigures, jobs: Sequence[Job]) -> RunFigures:
    """Figures of a run that is over."""
    done = [job for job in jobs if job.outcome is Outcome.COMPLETED]
    ttft_s = sorted(_ttft_s(job) for job in done)
    tpot_s = sorted(_tpot_s(job) for job in done if job.request.output_tokens > 1)
    good = sum(_ttft_s(job) <= MAX_TTFT_S and _tpot_s(job) <= MAX_TPOT_S for job in done)
    prompts = sum(job.request.prompt_tokens for job in done)
    return RunFigures(
        slowdown=_ratio(steps.time, steps.level_time),
        kv_max_over_mean=_ratio(steps.kv_ratio_time, steps.kv_time),
        barrier_idle=_ratio(steps.idle_time, steps.wall_time),
        goodput=good / len(jobs),
        prefix_hit_rate=_ratio(sum(job.cached_tokens for job in done), prompts) or 0.0,
        ttft_p50_s=_quantile(ttft_s, 0.5),
        ttft_p99_s=_quantile(ttft_s, 0.99),
        tpot_p50_s=_quantile(tpot_s, 0.5),
        tpot_p99_s=_quantile(tpot_s, 0.99),
        requests=len(jobs),
        completed=len(done),
    )


def _ttft_s(job: Job) -> float:
    assert job.first_s is not None
    return job.first_s - job.arrival_s


def _tpot_s(job: Job) -> float:
    assert job.first_s is not None
    assert job.ended_s is not None
    return (job.ended_s - job.first_s) / max(1, job.request.output_tokens - 1)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
