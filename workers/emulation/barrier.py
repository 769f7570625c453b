"""
Who waits for whom in emulated steps, and until when.  Pure: callers know the time.

    out ──arrive──► waiting ──the round begins──► stepping ──it ends──► awaited
     ▲                 │                             │                   │   │
     └───leave─────────┴─────────────────────────────┘      arrive: waiting  │
     └───leave: nothing to compute, or dead ─────────────────────────────────┘

A round begins when nobody is awaited and somebody waits, and lasts

    base + max over its ranks of what each adds        (workers.emulation.step_cost)

Whoever comes while a round is under way waits for its end, as a rank would for a
collective that has begun without it.

Between two rounds ranks take their samples, plan and send.  An engine on a GPU hides
that behind the step before, so it shall not add to the time of steps: the round
counts from the end of the one before, unless all of it is over already by then.
Then the ranks were late, and it counts from now.  Nor does it count from before the
arrival of a rank that was out: that had nothing to plan until then.

What is hidden so is time that the machine had to plan, and a deployment would not
have: a round tells it as its gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from workers.emulation.step_cost import StepCost, StepShare


class Round(NamedTuple):
    """
    One step of all who take part.

    late_ms: from the end of the round before to its beginning.
    gap_ms: from the same end to when nobody was awaited any more; late_ms at least.
    Both are 0 after a pause of all.
    """

    number: int
    start_s: float
    duration_ms: float
    late_ms: float
    gap_ms: float
    shares: Mapping[int, StepShare]

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.start_s + self.duration_ms / 1e3


class Closed(NamedTuple):
    """A round that is over, and those of its ranks that are still there."""

    round: Round
    released: frozenset[int]


class _Start(NamedTuple):
    start_s: float
    late_ms: float
    gap_ms: float


class Barrier:
    """Owns what is known of the ranks.  Times in seconds, of one clock."""

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost
        self._awaited: set[int] = set()
        self._waiting: dict[int, StepShare] = {}
        self._came_s: dict[int, float] = {}
        """When those of the waiting came who had been out."""
        self._stepping: set[int] = set()
        self._round: Round | None = None
        self._num_rounds = 0
        self._last_end_s: float | None = None
        """None if nobody had anything to compute since."""

    @property
    def due_s(self) -> float | None:
        """When the round under way ends."""
        return None if self._round is None else self._round.end_s

    def arrive(self, rank: int, share: StepShare, now_s: float) -> None:
        """A rank has a plan, and will wait."""
        was_in = rank in self._awaited
        self._forget(rank)
        self._waiting[rank] = share
        if not was_in:
            self._came_s[rank] = now_s
        self._begin(now_s)

    def leave(self, rank: int, now_s: float) -> None:
        """A rank has nothing to compute, or is gone.  Leaving twice changes nothing."""
        self._forget(rank)
        self._begin(now_s)

    def close(self, now_s: float) -> Closed | None:
        """End the round under way if it is time; who is released, is awaited."""
        ended = self._round
        if ended is None or now_s < ended.end_s:
            return None
        released = frozenset(self._stepping)
        self._awaited |= self._stepping
        self._stepping.clear()
        self._round, self._last_end_s = None, ended.end_s
        self._begin(now_s)
        return Closed(ended, released)

    def _forget(self, rank: int) -> None:
        self._awaited.discard(rank)
        self._stepping.discard(rank)
        self._waiting.pop(rank, None)
        self._came_s.pop(rank, None)

    def _begin(self, now_s: float) -> None:
        """Begin a round if nothing hinders it."""
        if self._round is not None or self._awaited:
            return
        if not self._waiting:
            self._last_end_s = None
            return
        shares, self._waiting = self._waiting, {}
        duration_ms = self._cost.base_ms + max(map(self._cost.own_ms, shares.values()))
        start = self._start(duration_ms, now_s)
        self._came_s.clear()
        self._num_rounds += 1
        self._round = Round(self._num_rounds, start.start_s, duration_ms, *start[1:], shares)
        self._stepping = set(shares)

    def _start(self, duration_ms: float, now_s: float) -> _Start:
        last_s = self._last_end_s
        if last_s is None:
            return _Start(now_s, 0.0, 0.0)
        gap_ms = 1e3 * (now_s - last_s)
        if now_s > last_s + duration_ms / 1e3:
            return _Start(now_s, gap_ms, gap_ms)
        start_s = max((last_s, *self._came_s.values()))
        return _Start(start_s, 1e3 * (start_s - last_s), gap_ms)
