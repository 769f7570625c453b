"""
A small robust regression: y = base + sum of weights[i] * x[i], no weight below zero.

Least squares with Huber's weights, so that a step that was held up counts little.  What is
believed beforehand is that all columns have one common weight, give or take as much
again; where the samples say little (columns that go up and down together, or stand
still, or drown in noise) that decides.
Plain Python, some milliseconds for 256 samples; nobody calls it within a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from statistics import median
from typing import NamedTuple

PRIOR_DEVIATION = 1.0
"""Of a weight from the common one, in units of the common one."""
_HUBER = 1.345  # scales of the residuals up to which they count in full
_SCALE_OF_MEDIAN = 1.4826  # median absolute residual to standard deviation, if normal
_LEAST_SCALE = 1e-3  # of the median of y: an exact fit has residuals, too
_CLIP = 20.0  # medians of y; more is no step but a stop
_PASSES = 3
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
        """`counts`: how much each sample counts.  Exact if the means are near zero."""
        total = sum(counts)
        means = [_dot(counts, column) / total for column in columns]
        mean_y = _dot(counts, y) / total
        products = [[0.0] * len(columns) for _ in columns]
        with_y = []
        for i, column in enumerate(columns):
            counted = list(map(mul, counts, column))
            with_y.append(_dot(counted, y) - total * means[i] * mean_y)
            for j in range(i + 1):
                product = _dot(counted, columns[j]) - total * means[i] * means[j]
                products[i][j] = products[j][i] = product
            products[i][i] = max(0.0, products[i][i])
        spread_y = _dot(list(map(mul, counts, y)), y) - total * mean_y * mean_y
        return cls(means, mean_y, products, with_y, max(0.0, spread_y))

    def line(self, noise: float) -> Line:
        """The likeliest weights, none below zero, if y has so much noise."""
        weights, common = [0.0] * len(self.means), self._common_weight()
        taken = list(range(len(weights))) if common > _NOTHING else []
        ridge = (noise / (PRIOR_DEVIATION * common)) ** 2 if taken else 0.0
        while taken:
            found = self._solved(taken, common, ridge)
            if min(found) >= 0:
                for index, weight in zip(taken, found, strict=True):
                    weights[index] = weight
                break
            del taken[found.index(min(found))]
        return Line(self.mean_y - _dot(weights, self.means), tuple(weights))

    def _common_weight(self) -> float:
        """The best weight if all columns had the same."""
        spread = sum(map(sum, self.products))
        return max(0.0, sum(self.with_y) / spread) if spread > _NOTHING else 0.0

    def _solved(self, taken: Sequence[int], common: float, ridge: float) -> list[float]:
        rows = []
        for index in taken:
            row = [self.products[index][other] for other in taken]
            row[taken.index(index)] += ridge
            rows.append([*row, self.with_y[index] + ridge * common])
        return _eliminate(rows)


class Found(NamedTuple):
    """A line, and the sums that it was found with: outliers count little in them."""

    line: Line
    sums: Centred
    deviation: float
    """Standard deviation of y."""


def robust_line(columns: Columns, y: Sequence[float]) -> Found:
    """Fit a line; of columns and y, only how they differ from their means matters for it."""
    most = _CLIP * median(y)
    least_scale = _LEAST_SCALE * median(y)
    columns = [_moved(column) for column in columns]
    y = _moved([min(value, most) for value in y])
    counts = [1.0] * len(y)
    sums = Centred.of(columns, y, counts)
    line = sums.line(max(least_scale, (sums.spread_y / len(y)) ** 0.5))
    for _ in range(_PASSES):
        sizes = list(map(abs, _residuals(line, columns, y)))
        noise = max(_SCALE_OF_MEDIAN * median(sizes), least_scale, _NOTHING)
        counts = [1.0 if size <= _HUBER * noise else _HUBER * noise / size for size in sizes]
        sums = Centred.of(columns, y, counts)
        line = sums.line(noise)
    return Found(line, sums, (sums.spread_y / sum(counts)) ** 0.5)


def _moved(values: Sequence[float]) -> list[float]:
    """Less their mean, so that products of small differences do not drown."""
    mean = sum(values) / len(values)
    return [value - mean for value in values]


def _residuals(line: Line, columns: Columns, y: Sequence[float]) -> list[float]:
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
