"""
What the balancer refuses.

* BalancerError
  - UnknownMethod    no policy has that name
  - NoCandidate      no group may take the request now; says why
  - LedgerBroken     a structure disagrees with itself (check_integrity)
"""


class BalancerError(Exception):
    """Base class of everything that this room raises."""


class UnknownMethod(BalancerError):
    """No policy has that name."""


class NoCandidate(BalancerError):
    """No group may take the request now."""


class LedgerBroken(BalancerError):
    """The books disagree with each other; only check_integrity raises it."""
