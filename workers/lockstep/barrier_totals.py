"""
What the barrier costs: sums over all steps that the ranks have computed together.

Rank 0 has everybody's row at every step, and notes them here.  Of a step it counts

    work      of each group: tokens, requests, KV tokens, attention pairs
    largest   of each of these: what the group had that had most
    ratio     largest over mean, 1 if groups are level; number of groups if one has it all
    waited    of each rank: what it spent in collectives, less what the rank spent there that
              spent least

A rank that never waits for others is in a collective for as long as the data travel; what
another one is there for longer is time in which it could have computed.  Where ranks wait for
each other by turns within a step, that is less than they have waited, never more.  With
several ranks in a group it is the mean of those that tell how long their step took.

The rows of a step tell what it computes, and how long the step before took.  So the last step's
time is counted with the round that follows, whether anything is computed in that or not.

One thread notes, any other reads; a lock, held for microseconds, keeps what is read of one step.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from operator import add, attrgetter
from typing import Any, NamedTuple

from workers.lockstep.row import StepRow, Timing, Work

RATIO_BOUNDS = (
    *(1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0),
    *(6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0),
)
"""Of the ratios' histograms; those that SGLang has."""
WAIT_BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_WAIT_BOUNDS_NS = tuple(round(bound * 1e9) for bound in WAIT_BOUNDS_S)

QUANTITIES = {
    "tokens": "num_tokens",
    "requests": "num_requests",
    "kv_tokens": "kv_tokens",
    "attention_pairs": "attention_pairs",
}
"""What is compared between groups: its name here, and in Work."""
_VALUES = attrgetter(*QUANTITIES.values())


class Histogram(NamedTuple):
    """Of values that were observed; counts[i]: above bounds[i - 1], and bounds[i] at most."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Quantity(NamedTuple):
    """largest: summed over steps.  ratio: of each step in which anybody had some."""

    by_group: tuple[int, ...]
    largest: int
    ratio: Histogram


class GroupTime(NamedTuple):
    """Of one group; step_s, and the total of waited_s, are of the same steps."""

    num_idle_steps: int
    step_s: float
    waited_s: Histogram


class BarrierFigures(NamedTuple):
    """Everything at one instant; all of it only grows."""

    num_steps: int
    groups: tuple[GroupTime, ...]
    quantities: dict[str, Quantity]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_steps": self.num_steps,
            "groups": [
                group._asdict() | {"waited_s": group.waited_s._asdict()} for group in self.groups
            ],
            "quantities": {
                name: quantity._asdict() | {"ratio": quantity.ratio._asdict()}
                for name, quantity in self.quantities.items()
            },
        }


class BarrierTotals:
    """Rows are in the order of ranks; those of a group stand together, its leader's first."""

    def __init__(self, num_groups: int, ranks_per_group: int = 1) -> None:
        self._ranks_per_group = ranks_per_group
        self._lock = threading.Lock()
        self._is_untimed = False
        self._num_steps = 0
        self._quantities = [_QuantitySums(num_groups) for _ in QUANTITIES]
        self._groups = [_GroupSums() for _ in range(num_groups)]

    def note(self, rows: Sequence[StepRow]) -> None:
        """Count what the rows of all ranks say; a round in which nobody computes is no step."""
        works = [row.work for row in rows[:: self._ranks_per_group]]
        with self._lock:
            if self._is_untimed:
                self._count_time([row.timing for row in rows])
            self._is_untimed = any(work.num_tokens for work in works)
            if self._is_untimed:
                self._count_work(works)

    def read(self) -> BarrierFigures:
        """From any thread."""
        with self._lock:
            return BarrierFigures(
                self._num_steps,
                tuple(group.read() for group in self._groups),
                {
                    name: sums.read()
                    for name, sums in zip(QUANTITIES, self._quantities, strict=True)
                },
            )

    def _count_work(self, works: Sequence[Work]) -> None:
        self._num_steps += 1
        for group, work in zip(self._groups, works, strict=True):
            group.num_idle_steps += not work.num_tokens
        for sums, values in zip(
            self._quantities, zip(*map(_VALUES, works), strict=True), strict=True
        ):
            sums.add(values)

    def _count_time(self, timings: Sequence[Timing]) -> None:
        least_ns = min((timing.waited_ns for timing in timings if timing.step_ns), default=0)
        size = self._ranks_per_group
        for rank, group in enumerate(self._groups):
            own = [timing for timing in timings[rank * size : (rank + 1) * size] if timing.step_ns]
            group.add(
                _mean([timing.step_ns for timing in own]),
                _mean([timing.waited_ns - least_ns for timing in own]),
            )


def _mean(values: Sequence[int]) -> int:
    return sum(values) // len(values) if values else 0


class _QuantitySums:
    """Of one quantity, over steps."""

    def __init__(self, num_groups: int) -> None:
        self._by_group = [0] * num_groups
        self._largest = 0
        self._counts = [0] * (len(RATIO_BOUNDS) + 1)
        self._ratios = 0.0

    def add(self, values: Sequence[int]) -> None:
        total = sum(values)
        if not total:
            return
        self._by_group = list(map(add, self._by_group, values))
        largest = max(values)
        self._largest += largest
        ratio = largest * len(values) / total
        self._ratios += ratio
        self._counts[bisect_left(RATIO_BOUNDS, ratio)] += 1

    def read(self) -> Quantity:
        ratio = Histogram(RATIO_BOUNDS, tuple(self._counts), self._ratios)
        return Quantity(tuple(self._by_group), self._largest, ratio)


class _GroupSums:
    """Of one group."""

    def __init__(self) -> None:
        self.num_idle_steps = 0
        self._step_ns = 0
        self._waited_ns = 0
        self._counts = [0] * (len(_WAIT_BOUNDS_NS) + 1)

    def add(self, step_ns: int, waited_ns: int) -> None:
        self._step_ns += step_ns
        self._waited_ns += waited_ns
        self._counts[bisect_left(_WAIT_BOUNDS_NS, waited_ns)] += 1

    def read(self) -> GroupTime:
        waited_s = Histogram(WAIT_BOUNDS_S, tuple(self._counts), self._waited_ns * 1e-9)
        return GroupTime(self.num_idle_steps, self._step_ns * 1e-9, waited_s)
