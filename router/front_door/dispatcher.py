"""
The controller's eyes: reads the segments before each decision, and times it.

It looks a few times a second without a decision too (tick), because requests
under way wait for what it finds: that their group is gone.

Order of reading: group table, load segment, in-flight board.  That the load
segment comes before the board is what the ledger's law relies on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from balancer.assignment import Assignment
from balancer.controller import Controller
from balancer.errors import NoCandidate
from balancer.freshness import FreshnessChange
from balancer.load import RequestShape
from router.errors import NoGroup
from router.front_door.meters import Meters
from router.front_door.upstream import Address
from shm.board import Board
from shm.errors import TornRead
from shm.group_table import GroupEntry, GroupState, GroupTableReader
from shm.load import LoadReader

_log = logging.getLogger("levelhead.front_door")
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

    def next_epoch(self, slot: int, now_ns: int) -> int:
        """Of front door `slot`: the time, or one more than its last life's if that is later."""
        board = self.board
        last = max(board.read(slot, rank).front_door_epoch for rank in range(board.num_groups))
        return max(now_ns, last + 1)


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
        on_gone: Callable[[Address, str], None] = lambda address, reason: None,
        on_back: Callable[[Address], None] = lambda address: None,
        *,
        rows_read: Collection[int] | None = None,
    ) -> None:
        """
        `on_gone` hears of each address at which a group is no more, and why; `on_back` of each
        at which the same life of one is well again.

        `rows_read`: of the board, all unless given; the own one is never read.
        """
        self.controller = controller
        self._segments = segments
        rows = range(segments.board.num_rows) if rows_read is None else rows_read
        self._foreign_rows = frozenset(rows) - {slot}
        self._slot = slot
        self._meters = meters
        self._clock_ns = clock_ns
        self._on_table = on_table
        self._on_gone = on_gone
        self._on_back = on_back
        self._table_sequence = 0
        self._load_sequence = 0
        self.num_changes = 0
        """Times that something was taken over which may change what groups have room for."""
        self._groups: dict[int, GroupEntry] = {}
        """The newest row of each group's newest life."""
        self._rows: dict[int, GroupEntry] = {}
        self._without: dict[str, list[int]] = {}
        """By name of a model, the groups that are known not to serve it."""
        self.first_models: frozenset[str] = frozenset()
        """Of the lists that engines tell: what they were started with, before any adapter."""

    def refresh(self) -> None:
        """Take over what was published since the last time, and that time has passed."""
        self._refresh(self._clock_ns())

    def tick(self) -> None:
        """What must happen without traffic too: look, and note how the own streams have grown."""
        self.refresh()
        self.controller.note_books()

    def assign(self, shape: RequestShape, excluded: Collection[int] = ()) -> Assignment:
        """Choose a group, none of the excluded, on the newest figures.  Raises NoGroup."""
        began_ns = self._clock_ns()
        self._refresh(began_ns)
        try:
            assignment = self.controller.assign(shape, excluded)
        except NoCandidate as error:
            raise NoGroup(str(error)) from None
        self._measure(assignment, began_ns)
        return assignment

    def now_ns(self) -> int:
        """On the clock of the groups' samples."""
        return self._clock_ns()

    def groups_without(self, model: object) -> Collection[int]:
        """
        Those that do not serve a model of that name, where others do.

        Nobody if nobody is known to serve it, or if it is no name at all.
        """
        if not isinstance(model, str):
            return ()
        self.refresh()
        return self._without.get(model, ())

    def groups_at(self, address: Address) -> list[int]:
        """Those that answer there: all ranks of one engine."""
        return [row.dp_rank for row in self._rows.values() if (row.host, row.port) == address]

    def group(self, dp_rank: int) -> GroupEntry:
        """Its row of the table: where it listens, and whose it is."""
        return self._rows[dp_rank]

    def _refresh(self, now_ns: int) -> None:
        if self._segments.table.current_sequence != self._table_sequence:
            self._read_table()
        if self._segments.loads.current_sequence != self._load_sequence:
            self._read_loads()
        board = self._segments.board
        for row in board.moved(self._slot) if self._foreign_rows else ():
            if row in self._foreign_rows:
                self.num_changes += 1
                self.controller.observe_cells(row, board.changed(row))
        for change in self.controller.observe_time(now_ns):
            self.num_changes += 1
            self._tell(change)

    def _tell(self, change: FreshnessChange) -> None:
        """One line at each transition, and a counter."""
        dp_rank, is_fresh, age_ns = change
        self._meters.stale_groups[dp_rank] = int(not is_fresh)
        if is_fresh:
            _log.info("DP group %d: its figures are fresh again and count", dp_rank)
            return
        self._meters.stale_transitions[dp_rank] += 1
        _log.warning(
            "DP group %d: its figures are %.2f s old, --max-load-age is %.2f s: books stand in",
            dp_rank,
            age_ns * _NS,
            self.controller.max_load_age_ns * _NS,
        )

    def _read_loads(self) -> None:
        """Take over what changed; the figures stay as they are if no copy was whole."""
        try:
            snapshot = self._segments.loads.changed()
        except TornRead:
            self._meters.torn_snapshots += 1
            return
        if snapshot is not None:
            self.num_changes += 1
            self._load_sequence = snapshot.sequence
            self.controller.observe_reports(snapshot.reports)

    def _measure(self, assignment: Assignment, began_ns: int) -> None:
        meters = self._meters
        meters.dispatches[assignment.dp_rank] += 1
        meters.predicted_cached_tokens += assignment.cached_tokens
        report = self.controller.ledger.report(assignment.dp_rank)
        if report is None or not self.controller.figures_are_fresh(assignment.dp_rank):
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
        self.num_changes += 1
        self._table_sequence = table.sequence
        ended = _ended(self._groups, table.groups)
        back = _back(self._groups, table.groups)
        self._rows = {entry.dp_rank: entry for entry in table.groups}
        self._without = _without(table.groups)
        self.first_models = frozenset(row.models[0] for row in table.groups if row.models)
        for entry in table.groups:
            self.controller.observe_group(entry)
            is_stale = self.controller.figures_are_stale(entry.dp_rank)
            self._meters.stale_groups[entry.dp_rank] = int(is_stale)  # 0 if it died: no news
            if 0 < entry.epoch == self.controller.ledger.epoch(entry.dp_rank):
                self._groups[entry.dp_rank] = entry
        self._on_table(table.groups)
        self._reread_loads()
        for address in back:
            self._on_back(address)
        for gone in ended:
            level = logging.DEBUG if gone.is_expected else logging.WARNING
            _log.log(
                level,
                "DP group %d: %s; what it does not answer any more is lost",
                gone.dp_rank,
                gone.why,
            )
            self._on_gone(gone.address, gone.why)

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


def _without(rows: Collection[GroupEntry]) -> dict[str, list[int]]:
    names = {name for row in rows for name in row.models}
    return {
        name: [row.dp_rank for row in rows if row.models and name not in row.models]
        for name in names
    }


class _Gone(NamedTuple):
    """A life of a group that is over, or taken to be."""

    dp_rank: int
    address: Address
    why: str
    is_expected: bool
    """It was draining, or known to be dead."""


def _ended(before: Mapping[int, GroupEntry], now: Iterable[GroupEntry]) -> list[_Gone]:
    """Whose requests will have no answer, by two tables that follow each other."""
    ended = []
    for entry in now:
        known = before.get(entry.dp_rank)
        if known is None:
            continue
        address = Address(known.host, known.port)
        is_expected = known.state in (GroupState.DRAINING, GroupState.DEAD)
        if entry.epoch > known.epoch:
            why = "it has begun a new life"
        elif entry.epoch == known.epoch and _has_died(known.state, entry.state):
            why = "it was found dead"
        else:
            continue
        ended.append(_Gone(entry.dp_rank, address, why, is_expected))
    return ended


def _back(before: Mapping[int, GroupEntry], now: Iterable[GroupEntry]) -> set[Address]:
    """Where those are that were found dead, too soon: the same life of them is ready."""
    dead = {
        (dp_rank, known.epoch, known.host, known.port)
        for dp_rank, known in before.items()
        if known.state is GroupState.DEAD
    }
    ready = [entry for entry in now if entry.state is GroupState.READY]
    return {
        Address(entry.host, entry.port)
        for entry in ready
        if (entry.dp_rank, entry.epoch, entry.host, entry.port) in dead
    }


def _has_died(before: GroupState, now: GroupState) -> bool:
    return now is GroupState.DEAD and before is not GroupState.DEAD
