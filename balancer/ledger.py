"""
The ledger: tokens sent to each group and not yet in its holding tokens.

The law: a dispatched token is counted exactly once - in flight until the
group's acceptance is visible in the load segment, in holding from that same
snapshot on.

    in flight of a group = sum over front doors of  dispatched - returned - accepted

`dispatched` and `returned` stand on the in-flight board, each row written by
its front door alone; `accepted` stands in the load segment, written by the
group.  All three are cumulative: they only grow, each has one writer, and no
list of ids can overflow or be overwritten.

Order of reading, which the law relies on: *the load segment first, then the
board*.  A charge is noted on the board before it is sent, so a charge that a
snapshot shows as accepted is on any board read after it, and the difference is
never short.  A charge dispatched between the two reads is in flight, as it
should be.  Read the other way round, a charge dispatched and accepted in
between would be subtracted without having been added: counted zero times.

Epochs: a cell counts only against the group's present epoch, and `accepted`
only for the front door's epoch in the cell.  Whatever belonged to an earlier
life of either counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from balancer.errors import LedgerBroken
from shm.board import EMPTY_CELL, Cell
from shm.load import LoadReport


class InFlight(NamedTuple):
    """Charges on their way to one group."""

    tokens: int
    requests: int


class GroupBooks(NamedTuple):
    """Everything the ledger knows of one group."""

    epoch: int
    report: LoadReport | None
    """Newest report of this epoch; None if there was none."""
    cells: tuple[Cell, ...]
    """One for each front door."""


def in_flight(books: GroupBooks) -> InFlight:
    """Sum dispatched - returned - accepted over the front doors, for the group's epoch."""
    tokens = requests = 0
    for slot, cell in enumerate(books.cells):
        if cell.group_epoch != books.epoch:
            continue
        tokens += cell.dispatched_tokens - cell.returned_tokens
        requests += cell.dispatched_requests - cell.returned_requests
        if books.report is None or slot >= len(books.report.accepted):
            continue
        accepted = books.report.accepted[slot]
        if accepted.front_door_epoch == cell.front_door_epoch:
            tokens -= accepted.tokens
            requests -= accepted.requests
    return InFlight(tokens, requests)


class Ledger:
    """
    One front door's view of every group, and the owner of its row.

    `note` stores a cell of the own row where the other front doors see it; it
    is called before a dispatch returns, so before anything is sent.
    """

    def __init__(
        self,
        *,
        slot: int,
        epoch: int,
        num_front_doors: int,
        num_groups: int,
        note: Callable[[int, Cell], None],
    ) -> None:
        self._slot = slot
        self._epoch = epoch
        self._note = note
        self._books = [GroupBooks(0, None, (EMPTY_CELL,) * num_front_doors)] * num_groups
        for dp_rank in range(num_groups):
            self.begin_group(dp_rank, 0)

    def books(self, dp_rank: int) -> GroupBooks:
        """What is known of that group."""
        return self._books[dp_rank]

    def begin_group(self, dp_rank: int, group_epoch: int) -> None:
        """The group is in that epoch from now on: all that came before counts for nothing."""
        books = self._books[dp_rank]
        self._books[dp_rank] = books._replace(epoch=group_epoch, report=None)
        self._write(dp_rank, Cell(self._epoch, group_epoch, 0, 0, 0, 0))

    def dispatch(self, dp_rank: int, tokens: int) -> int:
        """Note a charge that is about to be sent; return the group's epoch it is sent to."""
        cell = self._own(dp_rank)
        self._write(
            dp_rank,
            Cell(
                cell.front_door_epoch,
                cell.group_epoch,
                cell.dispatched_tokens + tokens,
                cell.dispatched_requests + 1,
                cell.returned_tokens,
                cell.returned_requests,
            ),
        )
        return cell.group_epoch

    def take_back(self, dp_rank: int, group_epoch: int, tokens: int) -> None:
        """Note that a charge sent in that epoch never reached the group."""
        cell = self._own(dp_rank)
        if cell.group_epoch != group_epoch:
            return  # it ended with its epoch
        returned_tokens = cell.returned_tokens + tokens
        returned_requests = cell.returned_requests + 1
        returned = cell._replace(
            returned_tokens=returned_tokens, returned_requests=returned_requests
        )
        self._write(dp_rank, returned)

    def observe_report(self, report: LoadReport) -> bool:
        """Take over a report; False if it is of another epoch than the group's."""
        books = self._books[report.dp_rank]
        if report.group_epoch != books.epoch:
            return False
        self._books[report.dp_rank] = GroupBooks(books.epoch, report, books.cells)
        return True

    def observe_cell(self, slot: int, dp_rank: int, cell: Cell) -> None:
        """Take over what another front door noted; read after the reports."""
        if slot != self._slot:
            self._replace_cell(slot, dp_rank, cell)

    def check_integrity(self) -> None:
        """Raise LedgerBroken if more came back or was accepted than was sent."""
        for dp_rank, books in enumerate(self._books):
            flying = in_flight(books)
            if flying.tokens < 0 or flying.requests < 0:
                raise LedgerBroken(f"group {dp_rank} has {flying}: {books}")

    def _own(self, dp_rank: int) -> Cell:
        return self._books[dp_rank].cells[self._slot]

    def _write(self, dp_rank: int, cell: Cell) -> None:
        self._note(dp_rank, cell)
        self._replace_cell(self._slot, dp_rank, cell)

    def _replace_cell(self, slot: int, dp_rank: int, cell: Cell) -> None:
        books = self._books[dp_rank]
        cells: Sequence[Cell] = books.cells
        replaced = (*cells[:slot], cell, *cells[slot + 1 :])
        self._books[dp_rank] = GroupBooks(books.epoch, books.report, replaced)
