"""The methods by name, as `--load-balance-method` spells them."""

from __future__ import annotations

import random

from balancer.cost_model import CostFit
from balancer.errors import UnknownMethod
from balancer.policies.auto import Auto
from balancer.policies.base import Policy
from balancer.policies.least_requests import LeastRequests
from balancer.policies.min_step_cost import MinStepCost
from balancer.policies.minimum_tokens import MinimumTokens
from balancer.policies.power_of_two import PowerOfTwo
from balancer.policies.random_choice import RandomChoice
from balancer.policies.round_robin import RoundRobin
from balancer.policies.session import Session
from balancer.policies.slack_affinity import SlackAffinity
from balancer.policies.total_tokens import TotalTokens
from balancer.policies.vllm_score import VllmScore

_BY_COST = {policy.name: policy for policy in (Auto, MinStepCost, SlackAffinity, Session)}
_BY_FIGURES = {
    policy.name: policy
    for policy in (
        MinimumTokens, LeastRequests, PowerOfTwo, RoundRobin, RandomChoice, TotalTokens, VllmScore,
    )
}  # fmt: skip
METHODS: dict[str, type[Policy]] = {**_BY_COST, **_BY_FIGURES}
DEFAULT_METHOD = Auto.name
STANDS_FOR = {Auto.name: SlackAffinity.name}
"""What a method that may change with a release is today."""
PREFIX_METHODS = frozenset((Auto.name, SlackAffinity.name))
"""Those that look at cached prefixes; for the others nobody names pages or follows caches."""
SESSION_METHODS = frozenset((Auto.name, SlackAffinity.name, Session.name))
"""Those that look at sessions; for the others nobody looks for a session's name."""
REPORT_METHODS = frozenset((TotalTokens.name, VllmScore.name))
"""Those that look at groups' reports alone, and at no load that books stand in for."""


def make_policy(method: str, rng: random.Random, costs: CostFit | None = None) -> Policy:
    """
    Return a new policy of that name; raises UnknownMethod with the names there are.

    `costs`: whose coefficients it uses and feeds, if it weighs by cost; its own if None.
    """
    if method in _BY_COST:
        return _BY_COST[method](rng, CostFit() if costs is None else costs)
    if method in _BY_FIGURES:
        return _BY_FIGURES[method](rng)
    raise UnknownMethod(f"method {method!r}: allowed are {', '.join(METHODS)}")
