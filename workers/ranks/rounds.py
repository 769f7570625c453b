"""
How leaders make themselves known to the publisher: rounds of joining, in its store.

    round      number of the round that is open, or was a moment ago
    round-<n>  how many have joined it; CLOSED more once the publisher has seen them

A leader joins with one add, which tells it its place in the round, or that the
round is closed, and then it tries the next.  The publisher closes a round with
one add, which tells it how many have joined.  Both happen in the store one after
the other, so each leader is in exactly one round, and none can die between being
counted and being known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

_CLOSED = 1 << 40
_OPEN_ROUND = "round"


class Counters(Protocol):
    """What rounds need of a store; each call happens at one instant."""

    def get(self, key: str, /) -> bytes:
        """Return what was set."""

    def set(self, key: str, value: str, /) -> None:
        """Replace what was set."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter, which begins at 0, and return the sum."""


class Rounds:
    """
    The publisher's side, for one thread.

    wait_for: returns once the key is there.
    """

    def __init__(self, store: Counters, wait_for: Callable[[str], None]) -> None:
        self._store = store
        self._wait_for = wait_for
        self._round = 0
        store.set(_OPEN_ROUND, "0")

    def next(self) -> list[str]:
        """Wait until somebody has joined; return the names of all who did."""
        key = _key(self._round)
        self._wait_for(key)
        self._store.set(_OPEN_ROUND, str(self._round + 1))
        num_joined = self._store.add(key, _CLOSED) - _CLOSED
        names = [_name(self._round, place) for place in range(1, num_joined + 1)]
        self._round += 1
        return names


def join_round(store: Counters) -> str:
    """Join the open round; return a name that nobody else has."""
    number = int(store.get(_OPEN_ROUND))
    while (place := store.add(_key(number), 1)) > _CLOSED:
        number += 1
    return _name(number, place)


def _key(number: int) -> str:
    return f"round-{number}"


def _name(number: int, place: int) -> str:
    return f"{number}.{place}"
