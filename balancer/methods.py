"""The methods by name, as `--load-balance-method` spells them."""

from __future__ import annotations

import random
from collections.abc import Callable

from balancer.errors import UnknownMethod
from balancer.policies.base import Policy
from balancer.policies.least_requests import LeastRequests
from balancer.policies.minimum_tokens import MinimumTokens
from balancer.policies.power_of_two import PowerOfTwo
from balancer.policies.random_choice import RandomChoice
from balancer.policies.round_robin import RoundRobin
from balancer.policies.slack_affinity import SlackAffinity

METHODS: dict[str, Callable[[random.Random], Policy]] = {
    policy.name: policy
    for policy in (
        MinimumTokens, SlackAffinity, LeastRequests, PowerOfTwo, RoundRobin, RandomChoice,
    )
}  # fmt: skip
DEFAULT_METHOD = MinimumTokens.name
PREFIX_METHODS = frozenset((SlackAffinity.name,))
"""Those that look at cached prefixes; for the others nobody names pages or follows caches."""


def make_policy(method: str, rng: random.Random) -> Policy:
    """Return a new policy of that name; raises UnknownMethod with the names there are."""
    if method not in METHODS:
        raise UnknownMethod(f"method {method!r}: allowed are {', '.join(METHODS)}")
    return METHODS[method](rng)
