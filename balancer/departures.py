"""
Requests that a front door knows to have ended, and that a group's report still counts.

A report is as old as its sample, and on its way for a step or more.  What ends meanwhile
still looks held: when a burst of requests ends, the same clients' next ones find the groups
that have just become free the fullest.

So groups tell with each report what has ended, per front door and cumulative: how many
requests, and the sum of their dp_balance_ids.  A front door adds up the same of what it knows
to have ended.  If both are the same but for its k latest departures, then those
are what the report does not tell of.  Else nothing is taken off: somebody's end was told
before it was heard of, and in between the report alone counts.

Of these, a report holds what it has accepted.  That is certain of all that was dispatched
when a report told that nothing of this front door's was in flight, and of nothing else.
A request whose client left may still be held, one that was refused never was, and of
several choices some may have left before: they are counted here, and take nothing off.

What is taken off is what the request held at its end, which is more than the report has
by what it grew since the sample.  It is a correction of what is weighed, and no counter:
the law of balancer.ledger stands as it is.

Only where there is one front door.  Several know of different ends, which the board does not
carry, and that made groups less level than what all of them see late (docs/decisions/0014).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from balancer.errors import LedgerBroken
from shm.load import ENDED_IDS_MASK, Ended

MOST_UNTOLD = 1024
"""Departures that are remembered; a group that tells of none of so many is believed."""


class Departure(NamedTuple):
    """A request that has ended."""

    dp_balance_id: int
    ordinal: int
    """Of its dispatch, among this front door's to the group's present life: 1, 2, ..."""
    held_tokens: int | None
    """What it held at its end; None if the group may hold it yet, or never did, or not all."""

    @classmethod
    def of(cls, dp_balance_id: str, ordinal: int, held_tokens: int | None) -> Departure:
        """With the id as it travels, a hexadecimal number."""
        return cls(int(dp_balance_id, 16), ordinal, held_tokens)


class TakenOff(NamedTuple):
    """What a group's newest report holds of requests that have ended."""

    tokens: int
    requests: int


_NOTHING = TakenOff(0, 0)


class Departures:
    """Those of one group's life, in the order in which they were heard of."""

    def __init__(self) -> None:
        self.taken_off = _NOTHING
        self._known = Ended(0, 0)
        self._told: Ended | None = None
        self._num_accepted = 0
        """Dispatches that are certain to be accepted."""
        self._untold: deque[Departure] = deque(maxlen=MOST_UNTOLD)
        """The latest, as many as the newest report does not tell of."""
        self._is_certain = False
        """Whether it tells of all others, and of none of them."""

    def add(self, departure: Departure) -> None:
        """One more has ended."""
        self._known = self._known.plus(departure.dp_balance_id)
        if self._told is None:
            return
        if len(self._untold) == MOST_UNTOLD:  # the first is forgotten
            self._is_certain, self.taken_off = False, _NOTHING
        self._untold.append(departure)
        if self._known == self._told:  # it was told before
            self._judge(self._told)
        elif self._is_certain:
            self.taken_off = self._with(departure)

    def accept_all(self, num_dispatched: int) -> None:
        """A report tells that none of so many dispatches is in flight."""
        self._num_accepted = num_dispatched

    def observe(self, told: Ended) -> None:
        """The group's newest report tells of what has ended."""
        self._told = told
        self._judge(told)

    def check_integrity(self) -> None:
        """Raise LedgerBroken if what is taken off is not what the departures add up to."""
        departures = list(self._untold) if self._is_certain else []
        counted = [d for d in departures if self._is_held(d)]
        expected = TakenOff(sum(d.held_tokens or 0 for d in counted), len(counted))
        if self.taken_off != expected:
            raise LedgerBroken(f"{self.taken_off} is taken off, departures have {expected}")

    def _judge(self, told: Ended) -> None:
        """Find the departures that the report does not tell of."""
        num_untold = self._known.requests - told.requests
        while len(self._untold) > max(0, num_untold):
            self._untold.popleft()
        lacking = (self._known.ids - told.ids) & ENDED_IDS_MASK
        ids = sum(departure.dp_balance_id for departure in self._untold)
        self._is_certain = len(self._untold) == num_untold and ids & ENDED_IDS_MASK == lacking
        self.taken_off = _NOTHING
        for departure in self._untold if self._is_certain else ():
            self.taken_off = self._with(departure)

    def _with(self, departure: Departure) -> TakenOff:
        if not self._is_held(departure):
            return self.taken_off
        tokens, requests = self.taken_off
        return TakenOff(tokens + (departure.held_tokens or 0), requests + 1)

    def _is_held(self, departure: Departure) -> bool:
        return departure.held_tokens is not None and departure.ordinal <= self._num_accepted
