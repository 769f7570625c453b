"""Minimum tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.policies.ties import FairTies


class MinimumTokens(Policy):
    """
    Take the group with the fewest holding + in-flight tokens.

    The method of SGLang's PR #7379, on figures that are exact: a token is in
    flight until the report that holds it, and never in both.  Unit: tokens.
    Where a group reports nothing, or nothing new, the front doors' books stand in for its
    holding tokens.  Choose it for decode on long or mixed contexts, where the
    KV cache read per step is what a step costs.  It is blind to the number of
    requests: when all are short, least_requests keeps batches more even.
    """

    name: ClassVar[str] = "minimum_tokens"

    def __init__(self, rng: random.Random) -> None:
        self._ties = FairTies(rng)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the group with the fewest tokens; equals take turns."""
        costs = [load.holding_tokens + load.in_flight_tokens for load in candidates]
        dp_rank, num_equal = self._ties.least(candidates, costs)
        return Choice(dp_rank, Why.FEWEST_TOKENS, costs, None, num_equal)
