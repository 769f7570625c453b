"""Random choice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.load import GroupLoad, RequestShape


class RandomChoice:
    """
    Draw a candidate, each with the same chance.

    Looks at no figure.  The baseline that needs nothing, not even a memory;
    choose it to compare with.
    """

    name: ClassVar[str] = "random"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the dp_rank of a candidate drawn uniformly."""
        return self._rng.choice(candidates).dp_rank
