"""Power of two choices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy


class PowerOfTwo(Policy):
    """
    Draw two groups, take the one with fewer holding and in-flight tokens.

    Nearly as level as looking at every group (Mitzenmacher 2001), and it does
    not send a whole reporting interval's arrivals to whichever group looked
    idlest in the last report, which is what an argmin over old figures does.
    Choose it when figures are old compared with the gap between arrivals;
    prefer minimum_tokens when they are fresh, as they are with built-in workers.
    """

    name: ClassVar[str] = "power_of_two"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the less loaded of two distinct candidates."""
        if len(candidates) == 1:
            return Choice(candidates[0].dp_rank, Why.FEWER_OF_TWO)
        drawn = self._rng.sample(range(len(candidates)), 2)
        taken = min(drawn, key=lambda place: candidates[place].tokens)
        return Choice(candidates[taken].dp_rank, Why.FEWER_OF_TWO, None, drawn)
