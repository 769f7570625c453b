"""Turns, and least of all with turns among equals."""

from __future__ import annotations

import random
from collections.abc import Sequence

from balancer.load import GroupLoad


class Turns:
    """
    Takes the next dp_rank above the one taken last, and after the highest the lowest.

    Begins at a random one, so that several front doors do not all begin at
    the same group.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: int | None = None

    def next(self, ranks: Sequence[int]) -> int:
        """Return the rank, of these ascending ones, whose turn it is."""
        if self._last is None:
            self._last = self._rng.choice(ranks)
        else:
            self._last = next((rank for rank in ranks if rank > self._last), ranks[0])
        return self._last


class FairTies:
    """
    Takes the candidate of least cost, and equals in turn.

    An argmin that gives ties to the first sends everything to rank 0 whenever
    all loads are zero.  A turn follows the rank taken last, not a count of
    ties: a count falls into step with ties whose number alternates, and then
    some equals are never taken.
    """

    def __init__(self, rng: random.Random) -> None:
        self._turns = Turns(rng)

    def least(self, candidates: Sequence[GroupLoad], costs: Sequence[float]) -> tuple[int, int]:
        """
        Return the dp_rank of a candidate whose cost, at the same index, is least, and how many
        have that cost.
        """
        lowest = min(costs)
        if costs.count(lowest) == 1:
            return candidates[costs.index(lowest)].dp_rank, 1
        tied = [c.dp_rank for c, cost in zip(candidates, costs, strict=True) if cost == lowest]
        return self._turns.next(tied), len(tied)
