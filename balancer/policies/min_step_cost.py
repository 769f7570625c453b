"""Minimum step cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.cost_model import CostFit
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.policies.ties import FairTies


class MinStepCost(Policy):
    """
    Take the group that the request makes cost least, in milliseconds of a step.

        L = a * (K + W) + b * n + c * W     of the group as it is (balancer.cost_model)
        l = a * p + b + c * u / S           of the request, p its prompt, u of it uncached there

    argmin L + l; equals take turns.  Where groups wait for each other at every step the slowest
    sets the pace, and the one that is cheapest now is the last to become it.  Counting
    tokens alone unbalances batch sizes, counting requests alone leaves attention idle on
    long contexts; a and b weigh the two as the deployment's own steps do.  A prompt is
    computed once and held for many steps, so its computing is spread over S = 512 of them: at
    its full price a group that has its prefix would be sent forks of it until its batch
    is as dear, at each step, as computing it anew is once.

    a, b and c are fitted while requests are served, and are the prior's where that fails.
    A ratio that is wrong by 4 costs some 2 percent.  Loads are as fresh as
    minimum_tokens has them; where books stand in, W is only what this front door knows of.
    u differs from p where somebody says what is cached: for slack_affinity, which falls back
    on this one.  By itself it names no pages, and then l is the same everywhere.

    Choose it for any mix of lengths, where prompts share little.  Not to pin sessions.
    """

    name: ClassVar[str] = "min_step_cost"

    def __init__(self, rng: random.Random, costs: CostFit) -> None:
        self._ties = FairTies(rng)
        self._costs = costs

    def read(self, ledger: Ledger) -> None:
        """Let the coefficients learn from the reports."""
        self._costs.observe(ledger.reports)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the group of least cost with the request; equals take turns."""
        cost = self._costs.step_cost
        costs = cost.costs_ms(candidates)
        cached = request.cached_tokens
        if cached:
            saved_ms = cost.spread_prefill_ms
            costs = [
                each - saved_ms * cached[load.dp_rank]
                for each, load in zip(costs, candidates, strict=True)
            ]
        dp_rank, num_equal = self._ties.least(candidates, costs)
        return Choice(dp_rank, Why.LEAST_STEP_COST, costs, None, num_equal)
