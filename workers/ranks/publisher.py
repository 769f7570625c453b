"""
The one writer of the load segment, in the leader that holds the lock (workers.ranks.term).

It starts from what the publisher before it has published, so that a group whose
leader has not joined again yet stays in the record, and grows old for all to see.
If that one died half way through a record, the one before is still current, and
whole (shm.double_buffer).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from shm.load import LoadReport
from workers.ranks.newest import Newest, NewestReports

MIN_PUBLISH_INTERVAL_S = 0.001


class Writer(Protocol):
    """What publishes; shm.load.LoadWriter is one."""

    def publish(self, reports: Sequence[LoadReport], published_ns: int) -> None:
        """Make these the current reports."""


class Publisher:
    """
    Publishes all reports known so far whenever one of them is new, and at most
    once per MIN_PUBLISH_INTERVAL_S.

    known: what was published before.  clock_ns: time.monotonic_ns or a fake.
    """

    def __init__(
        self,
        newest: Newest,
        writer: Writer,
        known: Iterable[LoadReport],
        clock_ns: Callable[[], int],
    ) -> None:
        self._newest = newest
        self._writer = writer
        self._known = NewestReports()
        self._known.note(known)
        self._clock_ns = clock_ns

    def publish(self) -> None:
        """Wait for new reports and publish them with the others."""
        self._known.note(self._newest.take())
        self._writer.publish(list(self._known.values()), self._clock_ns())

    def run(self) -> None:
        """Publish for as long as the process lives."""
        while True:
            self.publish()
            time.sleep(MIN_PUBLISH_INTERVAL_S)
