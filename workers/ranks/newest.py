"""
The newest report of each group.

A report is newer than another of its group if it is of a later epoch, or of the
same and sampled later.  What arrives late never replaces what is newer: a report
that could not be sent and is put back, or one that a dead rank's connection still
held when its next life had reported already.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from shm.load import LoadReport


class NewestReports(dict[int, LoadReport]):
    """By dp_rank.  Not for several threads; Newest is."""

    def note(self, reports: Iterable[LoadReport]) -> None:
        """Keep each of reports that is at least as new as what is there."""
        for report in reports:
            known = self.get(report.dp_rank)
            if known is None or _age(known) <= _age(report):
                self[report.dp_rank] = report


class Newest:
    """
    Reports on their way, until somebody takes them.

    Any thread puts, and any takes; each report is taken once.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reports = NewestReports()

    def put(self, *reports: LoadReport) -> None:
        """Replace what is older, and wake who takes."""
        with self._changed:
            self._reports.note(reports)
            self._changed.notify()

    def take(self) -> list[LoadReport]:
        """Wait until there is something; return it, and forget it."""
        with self._changed:
            self._changed.wait_for(lambda: self._reports)
            reports, self._reports = self._reports, NewestReports()
            return list(reports.values())


def _age(report: LoadReport) -> tuple[int, int]:
    return report.group_epoch, report.sampled_ns
