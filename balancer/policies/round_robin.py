"""Round robin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.policies.ties import Turns


class RoundRobin(Policy):
    """
    Take the candidates in turn, by dp_rank.

    Looks at no figure, so none can be missing or stale.  Even in requests over
    time, blind to their length and to how long they stay.  Choose it when all
    requests are alike, or to compare with.
    """

    name: ClassVar[str] = "round_robin"

    def __init__(self, rng: random.Random) -> None:
        self._turns = Turns(rng)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the next dp_rank above the last one, or the lowest."""
        dp_rank = self._turns.next([candidate.dp_rank for candidate in candidates])
        return Choice(dp_rank, Why.NEXT_IN_TURN)
