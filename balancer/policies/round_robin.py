"""Round robin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.load import GroupLoad, RequestShape
from balancer.policies.ties import Turns


class RoundRobin:
    """
    Take the candidates in turn, by dp_rank.

    Looks at no figure, so none can be missing or stale.  Even in requests over
    time, blind to their length and to how long they stay.  Choose it when all
    requests are alike, or to compare with.
    """

    name: ClassVar[str] = "round_robin"

    def __init__(self, rng: random.Random) -> None:
        self._turns = Turns(rng)

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the next dp_rank above the last one, or the lowest."""
        return self._turns.next([candidate.dp_rank for candidate in candidates])
