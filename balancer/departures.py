"""
Requests that a front door knows to have ended, and that a group's report still counts.

A report is as old as its sample, and on its way for a step or more.  What ends meanwhile
still looks held: when a burst of requests ends, the same clients' next ones find the groups
that have just become free the fullest.

So groups tell what has ended as they tell what was accepted: per front door, cumulative,
charges and requests.  A front door adds up the same of what it knows to have ended.
The difference are the latest of its departures, so many, if their charges add up
to it; else they were heard of in another order than they ended in, and nothing
is taken off until a report settles it.

    taken off a report = prompt and streamed tokens of those that it has accepted

What it has not accepted is still in flight, with its charge.  Groups accept in the order
of dispatch, but for requests that overtake each other on their connections: the ordinal
of the dispatch tells.  A request whose answer had not begun may never have been held,
and takes nothing off.

This corrects what a policy weighs and no counter: the law of balancer.ledger stands as
it is.  Only the own departures are known; other front doors' count until the next report.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from shm.load import NOT_TOLD, Accepted


class Departure(NamedTuple):
    """A request that has ended."""

    ordinal: int
    """Of its dispatch, among this front door's to the group's present life: 1, 2, ..."""
    charge_tokens: int
    held_tokens: int
    """What the group held for it at the end, as far as is known; 0 if it may never have."""


class Departures:
    """Those of one group's life, in the order in which they were heard of."""

    def __init__(self) -> None:
        self.tokens = 0
        """To be taken off the newest report's holding tokens."""
        self.requests = 0
        """To be taken off its requests."""
        self._known_tokens = self._known_requests = 0
        self._told: Accepted | None = None
        self._most_ordinal = 0
        """Dispatches up to here are accepted in the newest report, or were taken back."""
        self._untold: deque[Departure] = deque()
        """The latest, as many as the newest report does not tell."""
        self._is_sure = False
        """Whether they are those that it still counts."""

    def add(self, departure: Departure) -> None:
        """One more has ended."""
        self._known_tokens += departure.charge_tokens
        self._known_requests += 1
        if self._told is None:
            return
        self._untold.append(departure)
        if self._is_sure:
            self._take_off(departure)
        else:
            self._compare(self._told)

    def observe(self, accepted: Accepted, num_returned: int) -> None:
        """
        The group's newest report tells that of this front door's requests.

        num_returned: dispatches that were taken back; they have ordinals, too.
        """
        if accepted.ended_requests == NOT_TOLD:
            return
        self._told, self._most_ordinal = accepted, accepted.requests + num_returned
        self._compare(accepted)

    def _compare(self, told: Accepted) -> None:
        """Find the departures that the report lacks, and whether they are the latest."""
        self.tokens = self.requests = 0
        num_untold = self._known_requests - told.ended_requests
        while len(self._untold) > max(0, num_untold):
            self._untold.popleft()
        untold_tokens = sum(one.charge_tokens for one in self._untold)
        is_whole = len(self._untold) == num_untold
        self._is_sure = is_whole and untold_tokens == self._known_tokens - told.ended_tokens
        if self._is_sure:
            for departure in self._untold:
                self._take_off(departure)

    def _take_off(self, departure: Departure) -> None:
        if departure.held_tokens and departure.ordinal <= self._most_ordinal:
            self.tokens += departure.held_tokens
            self.requests += 1
