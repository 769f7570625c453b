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

METHODS: dict[str, Callable[[random.Random], Policy]] = {
    policy.name: policy
    for policy in (MinimumTokens, LeastRequests, PowerOfTwo, RoundRobin, RandomChoice)
}
DEFAULT_METHOD = MinimumTokens.name


def make_policy(method: str, rng: random.Random) -> Policy:
    """Return a new policy of that name; raises UnknownMethod with the names there are."""
    if method not in METHODS:
        raise UnknownMethod(f"method {method!r}: allowed are {', '.join(METHODS)}")
    return METHODS[method](rng)
