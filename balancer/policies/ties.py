"""Least of all, and fair among equals."""

from __future__ import annotations

import random
from collections.abc import Sequence

from balancer.load import GroupLoad


class FairTies:
    """
    Takes the candidate of least cost, and equals in turn.

    An argmin that gives ties to the first sends everything to rank 0 whenever
    all loads are zero.  Turns begin at a random place, so that several front
    doors do not begin at the same group.
    """

    def __init__(self, rng: random.Random) -> None:
        self._turn = rng.randrange(1 << 16)

    def least(self, candidates: Sequence[GroupLoad], costs: Sequence[int]) -> int:
        """Return the dp_rank of a candidate whose cost, at the same index, is least."""
        lowest = min(costs)
        if costs.count(lowest) == 1:
            return candidates[costs.index(lowest)].dp_rank
        tied = [c.dp_rank for c, cost in zip(candidates, costs, strict=True) if cost == lowest]
        self._turn += 1
        return tied[self._turn % len(tied)]
