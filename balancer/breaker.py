"""
A circuit breaker: whether requests go to one place, by what became of those before.

    closed ── failures in a row, or too large a share of failures ──► open
      ▲                                                                │ cool-down is over,
      │                                            a probe failed      │ or somebody saw it well
      └────── as many successes as are asked for ── half-open ◄────────┘
                                                     │    ▲
                                                     └────┘ one probe at a time

Closed, every request passes.  Open, none does.  Half-open, one at a time does: the probe.  What
has begun in one state says nothing in the next one: hundreds of requests that an engine had
when it died are one death, and what succeeds late is no sign that it is well.

A cool-down is twice the one before if the place failed its probe, or again within a window
after it was closed; up to 16 times the first.  It varies by a fifth either way, because several
front doors that learn of a death together need not all try at the same instant.

A place that nobody else can replace is used though its breaker is open (balancer.breakers);
a success there counts as one of a probe, a failure for nothing.  Silence is no failure: an
engine may take minutes.

Time is handed in, and never goes back.  Pure: whoever calls says what became of requests.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

MIN_OUTCOMES = 20
"""Requests within a window of which so many must have ended before their share counts."""
MAX_FAILED_SHARE = 0.5
MAX_DOUBLINGS = 4
JITTER = 0.2
_PARTS = 10  # of a window, that leave it one by one
_NS_PER_S = 1e9


class BreakerState(Enum):
    """What passes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerRules(NamedTuple):
    """When a breaker opens, and for how long."""

    max_in_a_row: int
    """Failures, of which the last one opens it."""
    num_successes: int
    """Of probes, in a row, that close it."""
    cool_down_ns: int
    window_ns: int
    """Time in which the share of failures is looked at."""


class Recent:
    """Counts outcomes of the last window, in parts of it."""

    def __init__(self, window_ns: int) -> None:
        self._part_ns = max(1, window_ns // _PARTS)
        self._parts: deque[list[int]] = deque()
        """[number of the part, outcomes, failures], oldest first."""
        self.num_outcomes = 0
        self.num_failures = 0

    def note(self, now_ns: int, *, is_failure: bool) -> None:
        """Count one, and forget what is too old."""
        part = now_ns // self._part_ns
        while self._parts and self._parts[0][0] <= part - _PARTS:
            _, outcomes, failures = self._parts.popleft()
            self.num_outcomes -= outcomes
            self.num_failures -= failures
        if not self._parts or self._parts[-1][0] != part:
            self._parts.append([part, 0, 0])
        self._parts[-1][1] += 1
        self._parts[-1][2] += is_failure
        self.num_outcomes += 1
        self.num_failures += is_failure

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()
        self.num_outcomes = self.num_failures = 0


class Breaker:
    """Of one place.  `tell` hears of each change of state, after it."""

    def __init__(
        self,
        rules: BreakerRules,
        rng: random.Random,
        tell: Callable[[Breaker], None] = lambda breaker: None,
    ) -> None:
        self._rules = rules
        self._rng = rng
        self._tell = tell
        self.state = BreakerState.CLOSED
        self.why = ""
        """Of the present state."""
        self.cool_down_ns = 0
        """The last one: when it opened, it was to stay so for this long."""
        self.generation = 0
        """Grows with each change of state."""
        self._recent = Recent(rules.window_ns)
        self._in_a_row = 0
        """Failures while closed; successes while half-open."""
        self._until_ns = 0
        self._doublings = 0
        self._closed_ns: int | None = None
        """When it was closed; None if it was never open."""
        self._probe: object | None = None

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}: {self.why or 'nothing has happened'}>"

    def is_passable(self, now_ns: int) -> bool:
        """Whether one more request may go there now."""
        if self.state is BreakerState.OPEN and now_ns >= self._until_ns:
            self._turn(BreakerState.HALF_OPEN, "its cool-down is over")
        if self.state is BreakerState.HALF_OPEN:
            return self._probe is None
        return self.state is BreakerState.CLOSED

    def enter(self, who: object) -> int:
        """
        Note that a request goes there, passable or not; return the generation that it is of.

        While half-open it is the probe, if there is none: until `leave`, `answered`, or the
        next change of state.
        """
        if self.state is BreakerState.HALF_OPEN and self._probe is None:
            self._probe = who
        return self.generation

    def leave(self, who: object) -> None:
        """Whoever it is is no probe any more; nothing if it was none, or left before."""
        if self._probe is who:
            self._probe = None

    def answered(self, who: object, generation: int, now_ns: int) -> int:
        """
        A request has got what a probe is sent for; return the generation that it is of now.

        While closed that says nothing: how it ends does.
        """
        self.leave(who)
        if generation != self.generation or self.state is BreakerState.CLOSED:
            return generation
        if self.state is BreakerState.OPEN:
            self._turn(BreakerState.HALF_OPEN, "it answered well, where nobody else could")
        self._in_a_row += 1
        if self._in_a_row >= self._rules.num_successes:
            self._turn(BreakerState.CLOSED, f"{self._in_a_row} answered well in a row")
            self._closed_ns = now_ns
        return self.generation

    def succeeded(self, generation: int, now_ns: int) -> None:
        """A request has ended well."""
        if self.state is BreakerState.CLOSED and generation == self.generation:
            self._in_a_row = 0
            self._recent.note(now_ns, is_failure=False)

    def failed(self, generation: int, now_ns: int, why: str) -> None:
        """A request has failed there, by the place's fault."""
        if generation != self.generation or self.state is BreakerState.OPEN:
            return
        if self.state is BreakerState.HALF_OPEN:
            self._open(now_ns, f"a probe failed: {why}")
            return
        self._in_a_row += 1
        self._recent.note(now_ns, is_failure=True)
        recent = self._recent
        if self._in_a_row >= self._rules.max_in_a_row:
            self._open(now_ns, f"{self._in_a_row} failed in a row, the last one: {why}")
        elif (
            recent.num_outcomes >= MIN_OUTCOMES
            and recent.num_failures >= MAX_FAILED_SHARE * recent.num_outcomes
        ):
            span_s = self._rules.window_ns / _NS_PER_S
            counts = f"{recent.num_failures} of {recent.num_outcomes}"
            self._open(now_ns, f"{counts} in {span_s:g} s failed, the last one: {why}")

    def well_again(self, why: str) -> None:
        """Somebody else has seen it recover: try it without waiting any longer."""
        if self.state is BreakerState.OPEN:
            self._turn(BreakerState.HALF_OPEN, why)

    def _open(self, now_ns: int, why: str) -> None:
        closed_ns = self._closed_ns
        is_again = self.state is BreakerState.HALF_OPEN or (
            closed_ns is not None and now_ns - closed_ns < self._rules.window_ns
        )
        self._doublings = min(MAX_DOUBLINGS, self._doublings + 1) if is_again else 0
        cool_down_ns = self._rules.cool_down_ns << self._doublings
        self.cool_down_ns = round(cool_down_ns * self._rng.uniform(1 - JITTER, 1 + JITTER))
        self._until_ns = now_ns + self.cool_down_ns
        self._turn(BreakerState.OPEN, why)

    def _turn(self, state: BreakerState, why: str) -> None:
        self.state, self.why = state, why
        self.generation += 1
        self._in_a_row = 0
        self._probe = None
        self._recent.clear()
        self._tell(self)
