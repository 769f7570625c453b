"""
The controller's eyes: reads the segments before each decision, and times it.

It looks a few times a second without a decision too (tick), because requests
under way wait for what it finds: that their group is gone.

Order of reading: group table, load segment, in-flight board.  That the load
segment comes before the board is what the ledger's law relies on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

from balancer.assignment import Assignment
from balancer.controller import Controller
from balancer.errors import NoCandidate
from balancer.freshness import FreshnessChange
from balancer.load import RequestShape
from router.errors import NoGroup
from router.front_door.decision_log import FIRST, DecisionLog, Occasion
from router.front_door.meters import Meters
from router.front_door.passive_health import PassiveHealth
from router.front_door.served_models import ServedModels
from router.front_door.table_news import back, ended, freed
from router.front_door.upstream import Address
from shm.board import Board
from shm.errors import TornRead
from shm.group_table import GroupEntry, GroupTableReader
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
        passive_health: PassiveHealth | None = None,
        decisions: DecisionLog | None = None,
    ) -> None:
        """
        `on_gone` hears of each address at which a group is no more, and why; `on_back` of each
        at which the same life of one is well again.  `rows_read`: of the board, all unless given;
        the own one is never read.  `passive_health` knows whom to avoid; None: nobody.
        `decisions`: where they are noted; None: nowhere.
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
        self._passive_health = passive_health
        self._decisions = DecisionLog(0) if decisions is None else decisions
        self._table_sequence = self._load_sequence = 0
        self.num_changes = 0
        """Times that something was taken over which may change what groups have room for."""
        self._groups: dict[int, GroupEntry] = {}
        """The newest row of each group's newest life."""
        self._rows: dict[int, GroupEntry] = {}
        self.models = ServedModels()

    def refresh(self) -> None:
        """Take over what was published since the last time, and that time has passed."""
        self._refresh(self._clock_ns())

    def tick(self) -> None:
        """What must happen without traffic too: look, and note how the own streams have grown."""
        self.refresh()
        self.controller.note_books()

    def assign(
        self, shape: RequestShape, excluded: Collection[int] = (), occasion: Occasion = FIRST
    ) -> Assignment:
        """
        Choose a group, none of the excluded, on the newest figures.  Raises NoGroup.

        Why it was chosen is noted, with the occasion; and of the excluded, if they are a mapping.
        """
        began_ns = self._clock_ns()
        self._refresh(began_ns)
        try:
            if self._passive_health is None:
                assignment = self.controller.assign(shape, excluded)
            else:
                health, controller = self._passive_health, self.controller
                assignment = health.assign(controller, shape, excluded, began_ns)
        except NoCandidate as error:
            raise NoGroup(str(error)) from None
        self._measure(assignment, began_ns)
        self._decisions.note(assignment, began_ns, occasion)
        return assignment

    def now_ns(self) -> int:
        """On the clock of the groups' samples."""
        return self._clock_ns()

    def groups_at(self, address: Address) -> list[int]:
        """Those that answer there: all ranks of one engine."""
        return [row.dp_rank for row in self._rows.values() if Address.of(row) == address]

    @property
    def ranks(self) -> Collection[int]:
        """Slots that somebody has, by the table as it was read last, in order."""
        return self._rows.keys()

    def newest_ranks(self) -> Collection[int]:
        """The same, by the newest table."""
        self.refresh()
        return self.ranks

    @property
    def num_engines(self) -> int:
        """Servers behind them."""
        return len({Address.of(row) for row in self._rows.values()})

    @property
    def rows(self) -> Collection[GroupEntry]:
        """The newest rows of all groups."""
        return self._rows.values()

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
        over, well = ended(self._groups, table.groups), back(self._groups, table.groups)
        rows = {entry.dp_rank: entry for entry in table.groups}
        self._forget(freed(self._rows, rows), rows)
        self._rows = rows
        self.models = ServedModels(table.groups)
        for entry in table.groups:
            self.controller.observe_group(entry)
            is_stale = self.controller.figures_are_stale(entry.dp_rank)
            self._meters.stale_groups[entry.dp_rank] = int(is_stale)  # 0 if it died: no news
            if 0 < entry.epoch == self.controller.ledger.epoch(entry.dp_rank):
                self._groups[entry.dp_rank] = entry
        if self._passive_health is not None:
            self._passive_health.observe(table.groups)
        self._on_table(table.groups)
        self._reread_loads()
        for address in well:
            self._on_back(address)
        for gone in over:
            level = logging.DEBUG if gone.is_expected else logging.WARNING
            _log.log(
                level,
                "DP group %d: %s; what it does not answer any more is lost",
                gone.dp_rank,
                gone.why,
            )
            self._on_gone(gone.address, gone.why)

    def _forget(self, slots: list[int], rows: dict[int, GroupEntry]) -> None:
        """Those whose groups are no more; nothing that was counted of them is told on."""
        for dp_rank in slots:
            self._groups.pop(dp_rank, None)
            self._meters.forget(dp_rank)
            if dp_rank not in rows:
                self.controller.observe_absence(dp_rank)

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
