"""Least requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.policies.ties import FairTies


class LeastRequests(Policy):
    """
    Take the group with the fewest requests: running, waiting and in flight.

    Exact in requests and blind to their length: on long-context traffic it
    leaves about as much attention time idle as round robin.  Where a group
    reports nothing, the front door's own open requests stand in.  Choose it
    when prompts and outputs are of like length.
    """

    name: ClassVar[str] = "least_requests"

    def __init__(self, rng: random.Random) -> None:
        self._ties = FairTies(rng)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the group with the fewest requests; equals take turns."""
        costs = [load.held_requests + load.in_flight_requests for load in candidates]
        dp_rank, num_equal = self._ties.least(candidates, costs)
        return Choice(dp_rank, Why.FEWEST_REQUESTS, costs, None, num_equal)
