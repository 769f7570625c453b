"""Quantiles of a histogram: as Prometheus' histogram_quantile finds them, so that views agree."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """
    The value that `share` of the observations are at most; None if there are none.

    counts: of each bound alone, and one more for what is beyond the last, which is told as that
    bound.  Within a bucket observations are taken to lie evenly.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, below, lower = share * total, 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return lower
