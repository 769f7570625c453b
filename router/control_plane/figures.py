"""What the segments say of every group, read in the order that keeps the ledger's law."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from balancer.in_flight import InFlight, in_flight
from router.backends.readings.beyond import Beyond
from router.backends.readings.reading import Condition
from shm.board import Board
from shm.errors import TornRead
from shm.group_table import GroupEntry, GroupState
from shm.load import LoadReader, LoadReport, LoadSnapshot

_log = logging.getLogger("levelhead.control_plane")
_NS = 1e-9


class GroupFigures(NamedTuple):
    """One group at one instant."""

    entry: GroupEntry
    report: LoadReport | None
    """None if the group has reported nothing in its present epoch."""
    in_flight: InFlight
    age_s: float | None
    """Since its report was sampled."""
    dispatched_tokens: int
    returned_tokens: int
    """Both over all front doors, since the present epochs began."""
    booked_tokens: int | None = None
    """Load of a backend, by the books and what it holds beyond them; None: a worker of ours."""
    condition: Condition | None = None
    """Why a backend's own figures are not used."""

    @property
    def tokens(self) -> int:
        """The load that minimum_tokens compares: holding and in-flight tokens, or the books."""
        if self.booked_tokens is not None:
            return self.booked_tokens
        return (self.report.holding_tokens if self.report else 0) + self.in_flight.tokens


class Figures:
    """Reads the load segment and the in-flight board, for people and Prometheus."""

    def __init__(
        self,
        loads: LoadReader,
        board: Board,
        clock_ns: Callable[[], int],
        beyond: Mapping[int, Beyond] = MappingProxyType({}),
    ) -> None:
        """`beyond` is what backends say of themselves, by dp_rank."""
        self._beyond = beyond
        self._loads = loads
        self._board = board
        self._clock_ns = clock_ns
        self._last: LoadSnapshot | None = None
        self._is_torn = False

    def read(self, groups: tuple[GroupEntry, ...]) -> list[GroupFigures]:
        """
        Figures of every group in the table: load segment first, then the board.

        Those of the last snapshot if no whole copy can be taken; raises TornRead
        if there is none.
        """
        snapshot = self._snapshot()
        reports = {report.dp_rank: report for report in snapshot.reports} if snapshot else {}
        now_ns = self._clock_ns()
        return [self._of_group(entry, reports.get(entry.dp_rank), now_ns) for entry in groups]

    def report_ages_s(self, groups: tuple[GroupEntry, ...]) -> dict[int, float] | None:
        """
        Age of each group's report, by dp_rank, of those that have one in their epoch.

        None if no whole copy of the segment could be taken.
        """
        try:
            snapshot = self._loads.snapshot()
        except TornRead:
            return None
        reports = snapshot.reports if snapshot else ()
        epochs = {entry.dp_rank: entry.epoch for entry in groups}
        now_ns = self._clock_ns()
        return {
            report.dp_rank: (now_ns - report.sampled_ns) * _NS
            for report in reports
            if epochs.get(report.dp_rank) == report.group_epoch
        }

    def _snapshot(self) -> LoadSnapshot | None:
        try:
            self._last = self._loads.snapshot()
        except TornRead as error:
            if not self._is_torn:
                _log.warning("the last figures are told on: %s", error)
            self._is_torn = True
            if self._last is None:
                raise
        else:
            self._is_torn = False
        return self._last

    def _of_group(self, entry: GroupEntry, report: LoadReport | None, now_ns: int) -> GroupFigures:
        if report is not None and report.group_epoch != entry.epoch:
            report = None
        cells = tuple(self._board.read(row, entry.dp_rank) for row in range(self._board.num_rows))
        current = [cell for cell in cells if cell.group_epoch == entry.epoch]
        figures = GroupFigures(
            entry=entry,
            report=report,
            in_flight=in_flight(entry.epoch, report, cells),
            age_s=None if report is None else (now_ns - report.sampled_ns) * _NS,
            dispatched_tokens=sum(cell.dispatched_tokens for cell in current),
            returned_tokens=sum(cell.returned_tokens for cell in current),
        )
        beyond = self._beyond.get(entry.dp_rank)
        if beyond is None:
            return figures
        book_tokens = sum(cell.book_tokens for cell in current)
        return _of_backend(figures, book_tokens, beyond)


def _of_backend(figures: GroupFigures, book_tokens: int, beyond: Beyond) -> GroupFigures:
    """A backend reports what it holds beyond the books; people want to see all that it says."""
    report, reading = figures.report, beyond.reading
    if beyond.condition is not None:  # it stands for nothing beyond the books, and is no figure
        report, figures = None, figures._replace(age_s=None)
    held_beyond = report.holding_tokens if report else 0
    if report is not None and reading is not None:
        report = report._replace(
            holding_tokens=reading.held_tokens,
            running_requests=reading.running_requests,
            waiting_requests=reading.waiting_requests,
        )
    return figures._replace(
        report=report, booked_tokens=book_tokens + held_beyond, condition=beyond.condition
    )


def imbalance(figures: list[GroupFigures]) -> float:
    """Largest over mean load in tokens among ready groups; 1.0 when level or idle."""
    ready = [group for group in figures if group.entry.state is GroupState.READY]
    loads = [group.tokens * group.entry.load_factor for group in ready]
    total = sum(loads)
    return max(loads) * len(loads) / total if total else 1.0
