"""
How a leader ends that was told to: it goes on until it is idle, within a limit.

    serving ──begin──► draining ──idle for QUIET_S, or limit_s over──► over

Draining, it still serves whatever arrives: front doors learn of it a moment later,
and what they have sent by then is as good as any other request.  QUIET_S is longer
than that moment usually is.  What comes later still finds nobody, or a 503, and is
sent to another group: no answer depends on QUIET_S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_S = 0.5
SENDING_LIMIT_S = 5
"""For the ends of answers that were cut."""
STEP_LIMIT_S = 5.0
"""For the step that is being computed."""
MAX_STOP_S = SENDING_LIMIT_S + STEP_LIMIT_S
"""A leader that was told to stop needs at most its drain limit and so much more."""


class Drain:
    """Knows the open requests, and when to stop.  clock: seconds, monotonic or a fake."""

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._num_open = 0
        self._busy_until = clock()
        self._began = self._busy_until

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold this open from a request's arrival to the end of its answer."""
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1
            self._busy_until = self._clock()

    def begin(self) -> None:
        """Start to count the limit."""
        self._began = self._clock()

    def remaining_s(self) -> float:
        """
        After begin: seconds until it may be over, to be asked again then; 0 if it is.
        """
        now = self._clock()
        busy_until = now if self._num_open else max(self._busy_until, self._began)
        end = min(busy_until + QUIET_S, self._began + self._limit_s)
        return max(0.0, end - now)
