"""
The last decisions of a front door, each with what it was made on.

A ring: the oldest goes when one comes.  An entry is 5 KB at most (balancer.decision), 1.3 KB
with two groups, so 1,024 of them take 1 to 5 MB, however many groups there are.  To note
one costs an append; a sentence is made of it by whoever asks (router.control_plane.decisions),
which is another process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from balancer.assignment import Assignment
from balancer.decision import Decision


class Occasion(NamedTuple):
    """What a front door knows of a request's way to its decision, beside its shape."""

    attempt: int = 1
    """1, and one more for each group that it leaves."""
    waited_ns: int = 0
    """In the lobby."""
    first_id: str | None = None
    """dp_balance_id of the request's first attempt; None: this is it."""
    follows: str | None = None
    """The same of the attempt before."""
    left_because: str | None = None
    """What became of that: unreachable, lost, refused, wrong_epoch, not_there."""


FIRST = Occasion()


class Entry(NamedTuple):
    """A decision with its circumstances."""

    dp_balance_id: str
    decided_ns: int
    """On the clock of the reports' samples."""
    wall_ns: int
    """The same since 1970."""
    charge_tokens: int
    num_outputs: int
    occasion: Occasion
    decision: Decision

    @property
    def request_id(self) -> str:
        """What all attempts of one request have in common: the dp_balance_id of the first."""
        return self.occasion.first_id or self.dp_balance_id


class Wanted(NamedTuple):
    """What somebody asks for."""

    limit: int
    dp_rank: int | None = None
    dp_balance_id: str | None = None
    """Of one attempt of a request: all of them."""


class DecisionLog:
    """Belongs to one front door."""

    def __init__(self, max_entries: int, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """max_entries: 0, and none is kept.  wall_ns: the time since 1970."""
        self._wall_ns = wall_ns
        self._entries: deque[Entry] = deque(maxlen=max_entries)

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, assignment: Assignment, decided_ns: int, occasion: Occasion) -> None:
        """Take one down, if its controller says why."""
        if assignment.decision is not None:
            self._entries.append(
                Entry(
                    assignment.dp_balance_id,
                    decided_ns,
                    self._wall_ns(),
                    assignment.charge_tokens,
                    assignment.num_outputs,
                    occasion,
                    assignment.decision,
                )
            )

    def found(self, wanted: Wanted) -> list[Entry]:
        """The newest first."""
        return list(islice(self._matching(wanted), wanted.limit))

    def _matching(self, wanted: Wanted) -> Iterator[Entry]:
        _, dp_rank, dp_balance_id = wanted
        request_id = None if dp_balance_id is None else self._request_id(dp_balance_id)
        return (
            entry
            for entry in reversed(self._entries)
            if (dp_rank is None or entry.decision.dp_rank == dp_rank)
            and (request_id is None or entry.request_id == request_id)
        )

    def _request_id(self, dp_balance_id: str) -> str:
        found = (e.request_id for e in self._entries if e.dp_balance_id == dp_balance_id)
        return next(found, dp_balance_id)
