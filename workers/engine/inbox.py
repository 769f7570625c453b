"""
What has arrived for the step loop since its last step, in order.

Any thread may put; only the step loop takes.  One condition guards the list
and wakes the loop when it is idle.  What is put before a take is in that take,
so an abort never overtakes the request that it is about.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from workers.engine.acceptance import Charge
from workers.engine.request import Request
from workers.errors import Stopping


class Submit(NamedTuple):
    """A request to take in, along with its charge."""

    request: Request


class Settle(NamedTuple):
    """A charge to count, whose request never comes."""

    charge: Charge


class Abort(NamedTuple):
    """A request whose client has gone."""

    request_id: int


class Look(NamedTuple):
    """
    A look at what only the step loop may touch; it may not raise.

    It must be short where requests are held: they wait for it.
    """

    take: Callable[[], None]


Arrival = Submit | Settle | Abort | Look


class Inbox:
    """The only way into the step loop."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals: list[Arrival] = []
        self._closed = False
        self._woken = False

    def put(self, *arrivals: Arrival) -> None:
        """Leave something for the next step, all of it for the same.  Raises Stopping if closed."""
        with self._changed:
            if self._closed:
                raise Stopping
            self._arrivals += arrivals
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Arrival]:
        """Everything that arrived; if nothing did, wait at most timeout_s for it or to be woken."""
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(self._has_news, timeout_s)
            self._woken = False
            arrivals, self._arrivals = self._arrivals, []
            return arrivals

    def wake(self) -> None:
        """End the loop's wait, if it waits, although nothing may have arrived.  Any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def close(self) -> None:
        """Let nothing more in, and wake the loop."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_closed(self) -> bool:
        """Whether the step loop is to end."""
        return self._closed

    def _has_news(self) -> bool:
        return bool(self._arrivals) or self._closed or self._woken
