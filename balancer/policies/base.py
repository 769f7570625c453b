"""What a policy is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from balancer.choice import Choice
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from shm.load import LoadReport


class Policy(Protocol):
    """
    Chooses a group.  Synchronous, no I/O, no clock, no lock.

    The controller has already dropped groups that are dead, draining or full,
    and never asks without candidates.  A policy may remember what it
    picked; chance comes from a random.Random that it was given.
    """

    name: ClassVar[str]

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take one of the candidates, and say why; no list in it is changed afterwards."""
        ...

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the dp_rank of one of the candidates: what `choose` takes."""
        return self.choose(candidates, request).dp_rank


@runtime_checkable
class LedgerReader(Protocol):
    """A policy that looks at more than loads: at the reports themselves, or at the own book."""

    def read(self, ledger: Ledger) -> None:
        """Look, and change nothing; called at the start and after each batch of reports."""
        ...


@runtime_checkable
class ReportWatcher(Protocol):
    """A policy that has another dispatcher's delays, and so counts the steps of groups."""

    def watch(self, reports: Iterable[LoadReport]) -> None:
        """
        See reports as they are published, not only the last before a decision.

        Whoever knows each of them calls this, as the simulator does; of a live front door
        such a policy sees what it reads.
        """
        ...
