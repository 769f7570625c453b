"""What a policy chose, and why: handed back by it, and explained elsewhere (balancer.reasons)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import NamedTuple


class Why(Enum):
    """The rule that decided.  Where it compares figures, the group taken has the least."""

    ASKED_FOR = "asked_for"
    """The request named its group; no policy was asked."""
    ONLY_CANDIDATE = "only_candidate"
    FEWEST_TOKENS = "fewest_tokens"
    FEWEST_REQUESTS = "fewest_requests"
    FEWER_OF_TWO = "fewer_of_two"
    LEAST_STEP_COST = "least_step_cost"
    LONGEST_MATCH = "longest_match"
    SESSION_HOME = "session_home"
    """Of all candidates."""
    SESSION_HOME_WITH_SLACK = "session_home_with_slack"
    """The same, but only of those that have slack."""
    SESSION_NEXT = "session_next"
    NEXT_IN_TURN = "next_in_turn"
    DRAWN = "drawn"
    FEWEST_PUBLISHED_TOKENS = "fewest_published_tokens"
    LEAST_SCORE = "least_score"

    @property
    def unit(self) -> str | None:
        """Of the figures that were compared; None: there are none."""
        return _UNITS.get(self)


_UNITS = {
    Why.FEWEST_TOKENS: "tokens",
    Why.FEWER_OF_TWO: "tokens",
    Why.FEWEST_PUBLISHED_TOKENS: "tokens",
    Why.FEWEST_REQUESTS: "requests",
    Why.LEAST_STEP_COST: "ms",
    Why.LONGEST_MATCH: "ms",
    Why.SESSION_HOME: "ms",
    Why.SESSION_HOME_WITH_SLACK: "ms",
    Why.SESSION_NEXT: "ms",
    Why.LEAST_SCORE: "score",
}


class Choice(NamedTuple):
    """One pick.  Costs and shortlist are the policy's own lists, by places in the candidates."""

    dp_rank: int
    why: Why
    costs: Sequence[float] | None = None
    """Of each candidate, in the unit of `why`; None: nothing was compared."""
    shortlist: Collection[int] | None = None
    """Places of those that it was chosen from; None: from all."""
    num_equal: int = 1
    """Of those that nothing was better than: they take turns."""
