"""
Two things measured side by side, seed after seed: their ratio, and how sure it is.

Seeds differ much, and what is compared saw the same ones: so each seed gives a ratio, and of
their logarithms the mean and its 95 % interval are taken (Student's t).  An interval that
has 1 in it is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

LEAST_PAIRS = 3
_Z = 1.959964  # of the normal distribution, two-sided 95 %


class Ratio(NamedTuple):
    """Second over first."""

    mean: float
    """Geometric."""
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What may be said."""
        if self.low <= 1 <= self.high:
            return "no difference seen"
        return "less" if self.high < 1 else "more"


def ratio_of(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Of values in pairs, all above zero; None if there are too few to tell a spread."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    if len(first) < LEAST_PAIRS or min(*first, *second) <= 0:
        return None
    logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    mean, half = fmean(logs), t_quantile(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def t_quantile(freedom: int) -> float:
    """Student's t, two-sided 95 %, within 4 % from 2 degrees of freedom (Cornish and Fisher)."""
    z, v = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
