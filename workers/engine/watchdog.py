"""
Notices a step loop that hangs, from the reports that it makes.

The loop reports before and after each step, and at every heartbeat when it is
idle.  So it gets on if a report tells of a step that the one before did not know,
or of nothing held.  A loop that is stuck in a step, or in a wait, reports nothing;
one that goes round without computing reports the same steps over and over.

One thread notes, any other asks; what they share is one number.
"""

from __future__ import annotations

from collections.abc import Callable

from shm.load import LoadReport


class Watchdog:
    """
    Knows when the step loop last got on.  clock: seconds, monotonic or a fake.

    limit_s: longer than any step and than some heartbeats.  Time counts from the
    beginning, so a loop that does not even start hangs too.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._num_steps = 0
        self._got_on_s = clock()

    def note(self, report: LoadReport) -> None:
        """Take note of a report; for the step loop."""
        is_idle = report.running_requests + report.waiting_requests == 0
        if is_idle or report.num_steps != self._num_steps:
            self._num_steps = report.num_steps
            self._got_on_s = self._clock()

    def is_well(self) -> bool:
        """Whether the loop has got on lately."""
        return self._clock() - self._got_on_s <= self._limit_s
