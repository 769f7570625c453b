"""One dispatch of one request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from balancer.decision import Decision
from balancer.prefix_index import Expectation


class End(Enum):
    """How an assignment's charge ends, as far as the front door knows."""

    COMPLETED = "completed"
    """It was answered to the end: its group counts its charge, and holds nothing of it."""
    REACHED = "reached"
    """It was answered in part.  Its charge is as above, and the group may hold it for a while."""
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
    ordinal: int
    """Among this front door's dispatches to that life of the group: 1, 2, ..."""
    book_tokens: int
    """What the front door believes it holds: the prompt and what has been streamed."""
    num_outputs: int = 1
    """Of all its prompts and choices."""
    streamed_tokens: int = 0
    """What the group has produced, as far as was seen."""
    cached_tokens: int = 0
    """Of the prompt, what the group was believed to have cached."""
    expectation: Expectation | None = None
    decision: Decision | None = None
    """Why it is there; None: nobody takes that down."""
    has_started: bool = False
    """Whether the group has produced a token of it, or it has ended."""
    is_open: bool = True
