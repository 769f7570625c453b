"""
A small robust regression: y = base + sum of weights[i] * x[i], no weight below zero.

Least squares with Huber's weights, so that a step that was held up counts little.
A pull of RIDGE of each column's own spread towards one common weight decides what
the samples do not: columns that go up and down together, or that stand still.
Plain Python, some milliseconds for 256 samples; nobody calls it within a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from statistics import median
from typing import NamedTuple

RIDGE = 0.02
_HUBER = 1.345  # scales of the residuals up to which they count in full
_SCALE_OF_MEDIAN = 1.4826  # median absolute residual to standard deviation, if normal
_LEAST_SCALE = 1e-3  # of the median of y: an exact fit has residuals, too
_CLIP = 20.0  # medians of y; more is no step but a stop
_PASSES = 5
_NOTHING = 1e-12

Columns = Sequence[Sequence[float]]


class Line(NamedTuple):
    """What was found."""

    base: float
    weights: tuple[float, ...]


class Centred(NamedTuple):
    """Weighted sums of products of deviations from the weighted means."""

    means: list[float]
    mean_y: float
    products: list[list[float]]
    with_y: list[float]
    spread_y: float

    @classmethod
    def of(cls, columns: Columns, y: Sequence[float], counts: Sequence[float]) -> Centred:
        """`counts`: how much each sample counts."""
        total = sum(counts)
        means = [_dot(counts, column) / total for column in columns]
        mean_y = _dot(counts, y) / total
        moved = [[v - mean for v in column] for column, mean in zip(columns, means, strict=True)]
        moved_y = [v - mean_y for v in y]
        counted = [list(map(mul, counts, column)) for column in moved]
        return cls(
            means,
            mean_y,
            [[_dot(one, other) for other in moved] for one in counted],
            [_dot(one, moved_y) for one in counted],
            _dot(list(map(mul, counts, moved_y)), moved_y),
        )

    def line(self) -> Line:
        """The weights that fit best, none below zero."""
        taken = list(range(len(self.means)))
        pull = self._common_weight()
        while taken:
            found = self._solved(taken, pull)
            if min(found) >= 0:
                break
            del taken[found.index(min(found))]
        weights = [0.0] * len(self.means)
        for index, weight in zip(taken, found if taken else (), strict=True):
            weights[index] = weight
        return Line(self.mean_y - _dot(weights, self.means), tuple(weights))

    def _common_weight(self) -> float:
        """The best weight if all columns had the same."""
        spread = sum(map(sum, self.products))
        return max(0.0, sum(self.with_y) / spread) if spread > _NOTHING else 0.0

    def _solved(self, taken: Sequence[int], pull: float) -> list[float]:
        rows = []
        for index in taken:
            ridge = RIDGE * self.products[index][index] + _NOTHING
            row = [self.products[index][other] for other in taken]
            row[taken.index(index)] += ridge
            rows.append([*row, self.with_y[index] + ridge * pull])
        return _eliminate(rows)


def robust_line(columns: Columns, y: Sequence[float]) -> tuple[Line, list[float]]:
    """Fit; return the line, and how much each sample counted in the end (0 to 1)."""
    middle = median(y)
    y = [min(value, _CLIP * middle) for value in y]
    counts = [1.0] * len(y)
    line = Centred.of(columns, y, counts).line()
    for _ in range(_PASSES):
        counts = _counts(residuals(line, columns, y), _LEAST_SCALE * middle)
        line = Centred.of(columns, y, counts).line()
    return line, counts


def residuals(line: Line, columns: Columns, y: Sequence[float]) -> list[float]:
    """What the line leaves of each y."""
    left = [value - line.base for value in y]
    for weight, column in zip(line.weights, columns, strict=True):
        left = [rest - weight * value for rest, value in zip(left, column, strict=True)]
    return left


def r_squared(weights: Sequence[float], centred: Centred) -> float:
    """Share of y's spread that these weights explain with the best base; below 0: none."""
    if centred.spread_y <= _NOTHING:
        return 0.0
    explained = 2 * _dot(weights, centred.with_y)
    explained -= sum(
        w * _dot(weights, row) for w, row in zip(weights, centred.products, strict=True)
    )
    return explained / centred.spread_y


def _counts(left: Sequence[float], least_scale: float) -> list[float]:
    sizes = list(map(abs, left))
    limit = _HUBER * max(_SCALE_OF_MEDIAN * median(sizes), least_scale, _NOTHING)
    return [limit / size if size > limit else 1.0 for size in sizes]


def _eliminate(rows: list[list[float]]) -> list[float]:
    """Solve by Gauss; the matrix is positive definite, so its diagonal can be divided by."""
    size = len(rows)
    for pivot in range(size):
        for row in rows[pivot + 1 :]:
            factor = row[pivot] / rows[pivot][pivot]
            for column in range(pivot, size + 1):
                row[column] -= factor * rows[pivot][column]
    found = [0.0] * size
    for pivot in reversed(range(size)):
        known = sum(rows[pivot][other] * found[other] for other in range(pivot + 1, size))
        found[pivot] = (rows[pivot][size] - known) / rows[pivot][pivot]
    return found


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return float(sum(map(mul, one, other)))
