"""One dispatch of one request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from balancer.prefix_index import Expectation


class End(Enum):
    """How an assignment's charge ends, as far as the front door knows."""

    REACHED = "reached"
    """The request reached the group, which counts its charge in its own time, and answered it."""
    UNANSWERED = "unanswered"
    """It was sent, and refused or given up before an answer began.  Its charge is as above."""
    NEVER_SENT = "never_sent"
    """No byte of it reached the group: the charge is taken back."""
    UNCOUNTED = "uncounted"
    """It ended, somehow, in a group that counts no charges: this one is taken back."""

    @property
    def returns_charge(self) -> bool:
        """Whether no report will ever show the charge as accepted."""
        return self in (End.NEVER_SENT, End.UNCOUNTED)


@dataclass(slots=True, eq=False)
class Assignment:
    """A request on a group, from dispatch until it ends or is given up."""

    dp_balance_id: str
    dp_rank: int
    group_epoch: int
    charge_tokens: int
    """What it adds to the group's in-flight tokens; never changed afterwards."""
    book_tokens: int
    """What the front door believes it holds: the prompt and what has been streamed."""
    streamed_tokens: int = 0
    """What the group has produced, as far as was seen."""
    cached_tokens: int = 0
    """Of the prompt, what the group was believed to have cached."""
    expectation: Expectation | None = None
    has_started: bool = False
    """Whether the group has produced a token of it, or it has ended."""
    is_open: bool = True
