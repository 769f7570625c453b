"""Session."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.cost_model import CostFit
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.policies.min_step_cost import MinStepCost
from balancer.rendezvous import home

MAX_OVER_MEAN = 1.25
FREE_REQUESTS = 4


class Session(Policy):
    """
    Take the home of the request's session, unless that is overloaded.

    The home is the candidate that ranks first for the session's key (rendezvous hashing, see
    balancer.rendezvous), so a group that dies moves only its own sessions, and moves them
    to all others; when it is back, so are they.  With D a group's step cost and l what
    the request adds to it, in milliseconds, both once all prompts are computed
    (balancer.cost_model), a group is overloaded if it has at least 4 requests and

        D + l > 1.25 * mean(D + l)

    and then the next in the session's order that is not is taken: the same one each
    time (bounded loads, Mirrokni, Thorup, Zadimoghaddam 2016).  The cheapest is never
    overloaded.  A request without a session is dispatched by min_step_cost.

    Looks at nothing that is cached and needs no page sizes, so it works with any engine.
    Loads are as fresh as minimum_tokens has them; old ones let a home be overloaded for longer.
    Choose it where a session must find its group: adapters, state beside the KV cache,
    engines that tell nothing.  slack_affinity keeps groups more level and finds more.
    """

    name: ClassVar[str] = "session"

    def __init__(self, rng: random.Random, costs: CostFit) -> None:
        self._level = MinStepCost(rng, costs).choose
        self._costs = costs

    def read(self, ledger: Ledger) -> None:
        """Let the coefficients learn from the reports."""
        self._costs.observe(ledger.reports)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the session's home, or the next that is not overloaded."""
        key = request.session_key
        if key is None:
            return self._level(candidates, request)
        first = home((load.dp_rank for load in candidates), key)
        cost = self._costs.step_cost
        mine_ms = cost.request_ms(request.prompt_tokens)
        costs = cost.steady_costs_ms(candidates)
        limit = MAX_OVER_MEAN * (sum(costs) / len(costs) + mine_ms) - mine_ms
        free = [
            place
            for place, (load, each) in enumerate(zip(candidates, costs, strict=True))
            if each <= limit or load.held_requests + load.in_flight_requests < FREE_REQUESTS
        ]
        ranks = [candidates[place].dp_rank for place in free]
        if first in ranks:
            return Choice(first, Why.SESSION_HOME, costs, free)
        return Choice(home(ranks, key), Why.SESSION_NEXT, costs, free)
