"""
The numbers of batches: what comes next, what is missing, and what begins anew.

    live        0 1 2 3     6 7         what the publisher sends to all
    repeated    0 1 2   4 5 6           what it says again, to who asks: numbers may come twice

Each publisher counts from 0.  A live number that is not above the last live one is therefore of
another publisher; one that was repeated already is not news.
"""

from __future__ import annotations

from enum import Enum


class Place(Enum):
    """Where a live batch stands."""

    NEXT = "next"
    KNOWN = "known"
    """It was repeated before it came."""
    BEHIND_A_GAP = "behind a gap"
    ANEW = "anew"
    """Another publisher counts."""


class Sequence:
    """Of one connection."""

    def __init__(self) -> None:
        self.next: int | None = None
        """The number that is due; None: any, for nothing was heard yet."""
        self._last_live = -1

    def place(self, number: int) -> Place:
        """Where a batch that comes live stands; it is the last live one from now on."""
        last, self._last_live = self._last_live, number
        if number <= last:
            self.next = None
            return Place.ANEW
        if self.next is None or number == self.next:
            return Place.NEXT
        return Place.KNOWN if number < self.next else Place.BEHIND_A_GAP

    def took(self, number: int) -> None:
        """That batch was taken over."""
        self.next = number + 1
