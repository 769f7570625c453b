"""
The step-time law, fitted to cells of a grid: pure.

    T = base + a * K + b * n + c * p      milliseconds
    K: KV tokens   n: requests that decode   p: prompt tokens computed      of what is weighed

What is weighed are the group that was the heaviest (by the law itself: it is fitted again until
nobody changes places), or the sums over all groups.  `both` has the two side by side, and tells
which of the three terms follow which.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

_MOST_ROUNDS = 20


class Load(NamedTuple):
    """What one group computes in a step."""

    kv_tokens: int = 0
    requests: int = 0
    prefill_tokens: int = 0


class Cell(NamedTuple):
    """A step: what each group computed in it, and how long it took."""

    loads: tuple[Load, ...]
    step_ms: float

    @property
    def total(self) -> Load:
        """Of all groups."""
        return Load(*map(sum, zip(*self.loads, strict=True)))


class Law(NamedTuple):
    """What a fit found.  error: median of |predicted - measured| / measured."""

    base_ms: float
    weights_ms: tuple[float, ...]
    r_squared: float
    error: float

    def weight(self, load: Load) -> float:
        """What a load adds to a step, by the first three weights."""
        return sum(a * x for a, x in zip(self.weights_ms, load, strict=False))


def fit(features: Sequence[Sequence[float]], times_ms: Sequence[float]) -> Law:
    """Least squares of times over features and a constant."""
    columns = np.array(features, dtype=float)
    scale = np.maximum(np.abs(columns).max(axis=0), 1.0)
    table = np.column_stack([np.ones(len(columns)), columns / scale])
    y = np.array(times_ms, dtype=float)
    found = np.linalg.lstsq(table, y, rcond=None)[0]
    left = table @ found - y
    spread = float(((y - y.mean()) ** 2).sum())
    r_squared = 1 - float((left**2).sum()) / spread if spread else 0.0
    weights = tuple(float(value) for value in found[1:] / scale)
    return Law(float(found[0]), weights, r_squared, float(median(np.abs(left) / y)))


def fit_sum(cells: Sequence[Cell]) -> Law:
    """Of the sums over groups."""
    return fit([cell.total for cell in cells], [cell.step_ms for cell in cells])


def fit_largest(cells: Sequence[Cell]) -> Law:
    """Of the group that was the heaviest."""
    law, chosen = fit_sum(cells), None
    for _ in range(_MOST_ROUNDS):
        heaviest = [max(cell.loads, key=law.weight) for cell in cells]
        if heaviest == chosen:
            break
        chosen = heaviest
        law = fit(heaviest, [cell.step_ms for cell in cells])
    return law


def fit_both(cells: Sequence[Cell]) -> Law:
    """Six weights: those of the heaviest group, and those of the sums."""
    law = fit_largest(cells)
    features = [(*max(cell.loads, key=law.weight), *cell.total) for cell in cells]
    return fit(features, [cell.step_ms for cell in cells])
