"""
The controller's eyes: reads the segments before each decision, and times it.

Order of reading: group table, load segment, in-flight board.  That the load
segment comes before the board is what the ledger's law relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from balancer.assignment import Assignment
from balancer.controller import Controller
from balancer.errors import NoCandidate
from balancer.load import RequestShape
from router.errors import NoGroup
from router.front_door.meters import Meters
from router.front_door.upstream import Address
from shm.board import Board
from shm.errors import TornRead
from shm.group_table import GroupEntry, GroupTableReader
from shm.load import LoadReader

_NS = 1e-9


class Segments(NamedTuple):
    """What a front door reads; its own row of the board it also writes."""

    table: GroupTableReader
    loads: LoadReader
    board: Board

    def close(self) -> None:
        """Unmap all three."""
        self.table.close()
        self.loads.close()
        self.board.close()


class Dispatcher:
    """Assigns requests on the newest figures."""

    def __init__(
        self,
        controller: Controller,
        segments: Segments,
        slot: int,
        meters: Meters,
        clock_ns: Callable[[], int],
        on_table: Callable[[tuple[GroupEntry, ...]], None],
    ) -> None:
        self.controller = controller
        self._segments = segments
        self._foreign_rows = [row for row in range(segments.board.num_rows) if row != slot]
        self._meters = meters
        self._clock_ns = clock_ns
        self._on_table = on_table
        self._table_sequence = 0
        self._load_sequence = 0
        self._addresses: dict[int, Address] = {}

    def refresh(self) -> None:
        """Take over what was published since the last time."""
        if self._segments.table.current_sequence != self._table_sequence:
            self._read_table()
        if self._segments.loads.current_sequence != self._load_sequence:
            self._read_loads()
        for row in self._foreign_rows:
            self.controller.observe_cells(row, self._segments.board.changed(row))

    def assign(self, shape: RequestShape) -> Assignment:
        """Choose a group on the newest figures.  Raises NoGroup."""
        began_ns = self._clock_ns()
        self.refresh()
        try:
            assignment = self.controller.assign(shape)
        except NoCandidate as error:
            raise NoGroup(str(error)) from None
        self._measure(assignment, began_ns)
        return assignment

    def address(self, dp_rank: int) -> Address:
        """Where the leader of that group listens."""
        return self._addresses[dp_rank]

    def _read_loads(self) -> None:
        """Take over what changed; the figures stay as they are if no copy was whole."""
        try:
            snapshot = self._segments.loads.changed()
        except TornRead:
            self._meters.torn_snapshots += 1
            return
        if snapshot is not None:
            self._load_sequence = snapshot.sequence
            self.controller.observe_reports(snapshot.reports)

    def _measure(self, assignment: Assignment, began_ns: int) -> None:
        meters = self._meters
        meters.dispatches[assignment.dp_rank] += 1
        meters.predicted_cached_tokens += assignment.cached_tokens
        report = self.controller.ledger.report(assignment.dp_rank)
        if report is None:
            meters.book_decisions += 1
        else:
            meters.figure_age_s.observe((began_ns - report.sampled_ns) * _NS)
        meters.decision_s.observe((self._clock_ns() - began_ns) * _NS)

    def _read_table(self) -> None:
        try:
            table = self._segments.table.snapshot()
        except TornRead:
            self._meters.torn_snapshots += 1
            return
        if table is None:
            return
        self._table_sequence = table.sequence
        self._addresses = {e.dp_rank: Address(e.host, e.port) for e in table.groups}
        for entry in table.groups:
            self.controller.observe_group(entry)
        self._on_table(table.groups)
        self._reread_loads()

    def _reread_loads(self) -> None:
        """All reports, changed or not: those of a new epoch may have come before the table."""
        try:
            snapshot = self._segments.loads.snapshot()
        except TornRead:
            self._table_sequence = 0  # next time
            self._meters.torn_snapshots += 1
            return
        if snapshot is not None:
            self.controller.observe_reports(snapshot.reports)
