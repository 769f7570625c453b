"""What a policy is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from balancer.load import GroupLoad, RequestShape


class Policy(Protocol):
    """
    Chooses a group.  Synchronous, no I/O, no clock, no lock.

    The controller has already dropped groups that are dead, draining or full,
    and never calls pick without candidates.  A policy may remember what it
    picked; chance comes from a random.Random that it was given.
    """

    name: ClassVar[str]

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the dp_rank of one of the candidates."""
        ...
