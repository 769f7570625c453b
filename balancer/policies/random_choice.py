"""Random choice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy


class RandomChoice(Policy):
    """
    Draw a candidate, each with the same chance.

    Looks at no figure.  The baseline that needs nothing, not even a memory;
    choose it to compare with.
    """

    name: ClassVar[str] = "random"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take a candidate, drawn uniformly."""
        return Choice(self._rng.choice(candidates).dp_rank, Why.DRAWN)
