"""
A decision: what a request was dispatched on, kept small enough to be kept always.

Of many candidates only some are kept: the one taken, the one with the longest prefix match, and
the cheapest, MAX_CANDIDATES in all.  Figures are copied and no list of the controller's is held, so
an entry has a bound that no number of groups or front doors moves: some 5 KB.
It holds no word of a prompt, and no name of a session.

Facts alone; the sentence is made when somebody reads it (balancer.reasons).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from balancer.choice import Why
from balancer.load import GroupLoad

MAX_CANDIDATES = 8
MAX_NAMED = 8
"""Groups that were no candidates."""


class Source(Enum):
    """Where a group's load came from."""

    REPORT = "report"
    BOOKS = "books"
    BOTH = "books_and_report"
    """Of a backend: our books, and what it reports beyond them."""


class LeftOut(NamedTuple):
    """Who was no candidate: some of them with the reason, and how many there are for each."""

    named: tuple[tuple[int, str], ...] = ()
    counts: tuple[tuple[str, int], ...] = ()


class Weighed(NamedTuple):
    """One candidate, as it was weighed."""

    load: GroupLoad
    """As it is: before the factor."""
    factor: float
    """Of slow start; 1: none."""
    cost: float | None
    """What was compared, with the factor; None: nothing was."""
    cached_tokens: int | None
    """Of the prompt; None: nobody looked."""
    is_shortlisted: bool
    """Whether the method would have taken it at all, had the rest been worse."""
    source: Source
    sampled_ns: int | None
    """When its newest report was; None: it has not reported."""
    waiting_requests: int | None
    """By that report, if it counts."""


class Decision(NamedTuple):
    """One request's, on one group."""

    dp_rank: int
    why: Why
    prompt_tokens: int
    has_session: bool
    candidates: tuple[Weighed, ...]
    num_candidates: int
    num_shortlisted: int | None
    """None: the method made no shortlist."""
    num_equal: int
    are_suspect: bool
    """Whether the candidates are suspect, because no group is ready that could take it."""
    is_last_resort: bool
    """Whether only groups with an open breaker could."""
    left_out: LeftOut

    @property
    def chosen(self) -> Weighed:
        """The one taken."""
        return next(each for each in self.candidates if each.load.dp_rank == self.dp_rank)

    @classmethod
    def from_wire(cls, told: Sequence[Any]) -> Decision:
        """From the lists that JSON makes of it."""
        facts = cls._make(told)
        named, counts = facts.left_out
        return facts._replace(
            why=Why(facts.why),
            candidates=tuple(map(_weighed, facts.candidates)),
            left_out=LeftOut(tuple((r, w) for r, w in named), tuple((w, n) for w, n in counts)),
        )


def _weighed(told: Sequence[Any]) -> Weighed:
    facts = Weighed._make(told)
    return facts._replace(load=GroupLoad._make(facts.load), source=Source(facts.source))
