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

Order among reports: a report older than the one that is known is ignored,
whoever publishes it.  `accepted` that went back would count a token twice.

Epochs: a cell counts only against the group's present epoch, and `accepted`
only for the front door's epoch in the cell.  Whatever belonged to an earlier
life of either counts for nothing.

The *book* of a group is what stands in for its report while that is missing
or stale (balancer.freshness says when): the tokens that front doors have open
on it, prompts and what was streamed.  Each front door notes its own book in
its cell, with every dispatch and every charge that it takes back, and whenever
note_books is called; the sum over the cells of the group's present epoch is
the group's book.  So the book on the board is as old as the last note_books at
most: what has ended or was streamed since is not in it.  That may be, because
books are gauges and no law adds them up; counters are written at once.  The
own book is known as it is.  A front door that dies leaves its book, and what it had in
flight, on the board until the root reclaims its row: until then the group may
well hold those requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from balancer.departures import Departure, Departures, TakenOff
from balancer.errors import LedgerBroken
from balancer.in_flight import IN_FLIGHT, InFlight, in_flight
from shm.board import EMPTY_CELL, Cell
from shm.load import LoadReport


class Book(NamedTuple):
    """What is open on one group: sent to it, and not ended as far as front doors know."""

    tokens: int
    requests: int


_CELL = partial(tuple.__new__, Cell)
_BOOK = Cell._fields.index("book_tokens")  # from there on a cell is about the book


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
        self._epochs = [0] * num_groups
        self._reports: list[LoadReport | None] = [None] * num_groups
        self._cells = [[EMPTY_CELL] * num_front_doors for _ in range(num_groups)]
        self._in_flight = [InFlight(0, 0)] * num_groups
        """What in_flight() makes of the three above: kept up to date with each change."""
        self._book_tokens = [0] * num_groups
        self._book_requests = [0] * num_groups
        """The own books; the own cells have them as of their last note."""
        self._departures = [Departures() for _ in range(num_groups)]
        for dp_rank in range(num_groups):
            self.begin_group(dp_rank, 0)

    def epoch(self, dp_rank: int) -> int:
        """The group's present epoch; 0 while unknown."""
        return self._epochs[dp_rank]

    def report(self, dp_rank: int) -> LoadReport | None:
        """The group's newest report of its present epoch."""
        return self._reports[dp_rank]

    @property
    def reports(self) -> Sequence[LoadReport | None]:
        """The same of every group, by dp_rank."""
        return self._reports

    @property
    def num_front_doors(self) -> int:
        """Rows of the board."""
        return len(self._cells[0])

    def in_flight(self, dp_rank: int) -> InFlight:
        """Charges that any front door has on the way to the group."""
        return self._in_flight[dp_rank]

    def own_book(self, dp_rank: int) -> Book:
        """What this front door has open on the group, in the group's present epoch."""
        return Book(self._book_tokens[dp_rank], self._book_requests[dp_rank])

    def book(self, dp_rank: int) -> Book:
        """
        What all front doors have open on the group: the own book, and the others' as noted.

        Where rows of other front doors are not observed, the own book alone.
        """
        tokens, requests = self._book_tokens[dp_rank], self._book_requests[dp_rank]
        epoch = self._epochs[dp_rank]
        for slot, cell in enumerate(self._cells[dp_rank]):
            if cell.group_epoch == epoch and slot != self._slot:
                tokens += cell.book_tokens
                requests += cell.book_requests
        return Book(tokens, requests)

    def taken_off(self, dp_rank: int) -> TakenOff:
        """What the group's report holds of requests that this front door knows to be over."""
        return self._departures[dp_rank].taken_off

    def num_dispatched(self, dp_rank: int) -> int:
        """Requests that this front door has sent to the group's present life, or was about to."""
        return self._own(dp_rank).dispatched_requests

    def begin_group(self, dp_rank: int, group_epoch: int) -> None:
        """The group is in that epoch from now on: all that came before counts for nothing."""
        self._departures[dp_rank] = Departures()
        self._epochs[dp_rank] = group_epoch
        self._reports[dp_rank] = None
        self._book_tokens[dp_rank] = self._book_requests[dp_rank] = 0
        self._write(
            dp_rank, EMPTY_CELL._replace(front_door_epoch=self._epoch, group_epoch=group_epoch)
        )
        self._in_flight[dp_rank] = self._summed(dp_rank)

    def dispatch(self, dp_rank: int, tokens: int, book_tokens: int | None = None) -> int:
        """
        Note a charge that is about to be sent; return the group's epoch it is sent to.

        book_tokens: what the group will hold for it, if that is not the charge.
        """
        held = tokens if book_tokens is None else book_tokens
        mine, group_epoch, sent, num_sent, returned, num_returned, _, _ = self._own(dp_rank)
        self._book_tokens[dp_rank] = book_tokens = self._book_tokens[dp_rank] + held
        self._book_requests[dp_rank] = num_open = self._book_requests[dp_rank] + 1
        sent, num_sent = sent + tokens, num_sent + 1
        cell = (mine, group_epoch, sent, num_sent, returned, num_returned, book_tokens, num_open)
        self._write(dp_rank, _CELL(cell))
        flying, num_flying = self._in_flight[dp_rank]
        self._in_flight[dp_rank] = IN_FLIGHT((flying + tokens, num_flying + 1))
        return group_epoch

    def stream(self, dp_rank: int, group_epoch: int, tokens: int) -> None:
        """Add streamed tokens to the own book; the board has them with the next note."""
        if self._epochs[dp_rank] == group_epoch:
            self._book_tokens[dp_rank] += tokens

    def end(self, dp_rank: int, group_epoch: int, book_tokens: int, departure: Departure) -> None:
        """
        A request is open no more.  Its charge reached the group, which counts it once, and
        that it ended.

        No counter changes, so nothing is written: the board has the book with
        the next dispatch to that group, or else with the next note_books.
        """
        if self._epochs[dp_rank] == group_epoch:  # else it ended with its epoch
            self._book_tokens[dp_rank] -= book_tokens
            self._book_requests[dp_rank] -= 1
            self._departures[dp_rank].add(departure)

    def take_back(self, dp_rank: int, group_epoch: int, tokens: int, book_tokens: int) -> None:
        """Note that a charge sent in that epoch never reached the group, and is open no more."""
        if self._epochs[dp_rank] != group_epoch:
            return  # it ended with its epoch
        self._book_tokens[dp_rank] -= book_tokens
        self._book_requests[dp_rank] -= 1
        cell = self._own(dp_rank)
        noted = cell._replace(
            returned_tokens=cell.returned_tokens + tokens,
            returned_requests=cell.returned_requests + 1,
            book_tokens=self._book_tokens[dp_rank],
            book_requests=self._book_requests[dp_rank],
        )
        self._write(dp_rank, noted)
        flying, num_flying = self._in_flight[dp_rank]
        self._in_flight[dp_rank] = IN_FLIGHT((flying - tokens, num_flying - 1))

    def note_books(self) -> None:
        """Note the own book of every group where it has changed since the last note."""
        for dp_rank in range(len(self._epochs)):
            if self._own(dp_rank)[_BOOK:] != self.own_book(dp_rank):
                self._note_book(dp_rank)

    def observe_reports(self, reports: Iterable[LoadReport]) -> list[int]:
        """
        Take over reports; return the dp_ranks of those that were.

        Those of another epoch are ignored, and those sampled before the one known.
        """
        taken = []
        for report in reports:
            dp_rank = report.dp_rank
            if report.group_epoch != self._epochs[dp_rank]:
                continue
            before = self._reports[dp_rank]
            if before is not None and report.sampled_ns < before.sampled_ns:
                continue
            self._reports[dp_rank] = report
            if before is None or before.accepted != report.accepted:  # most steps change nothing
                self._observe_counters(dp_rank, report)
            taken.append(dp_rank)
        return taken

    def _observe_counters(self, dp_rank: int, report: LoadReport) -> None:
        self._in_flight[dp_rank] = self._summed(dp_rank)
        if len(report.accepted) != 1:  # see balancer.departures
            return
        mine, own = report.accepted[0], self._own(dp_rank)
        if mine.front_door_epoch != self._epoch:
            return
        departures = self._departures[dp_rank]
        if own.dispatched_requests - own.returned_requests == mine.requests:
            departures.accept_all(own.dispatched_requests)
        departures.observe(mine.ended)

    def observe_cell(self, slot: int, dp_rank: int, cell: Cell) -> bool:
        """
        Take over what another front door noted; read after the reports.

        Returns whether that may change what is in flight, and not the book alone.
        """
        before = self._cells[dp_rank][slot]
        if slot == self._slot or cell == before:
            return False
        self._cells[dp_rank][slot] = cell
        if cell[:_BOOK] == before[:_BOOK]:
            return False
        self._in_flight[dp_rank] = self._summed(dp_rank)
        return True

    def check_integrity(self) -> None:
        """Raise LedgerBroken if more came back or was accepted than was sent, or a sum is old."""
        for departures in self._departures:
            departures.check_integrity()
        for dp_rank, flying in enumerate(self._in_flight):
            if flying.tokens < 0 or flying.requests < 0 or flying != self._summed(dp_rank):
                raise LedgerBroken(
                    f"group {dp_rank} has {flying}: {self._reports[dp_rank]}, "
                    f"{self._cells[dp_rank]}"
                )

    def _own(self, dp_rank: int) -> Cell:
        return self._cells[dp_rank][self._slot]

    def _note_book(self, dp_rank: int) -> None:
        book = (self._book_tokens[dp_rank], self._book_requests[dp_rank])
        self._write(dp_rank, _CELL(self._own(dp_rank)[:_BOOK] + book))

    def _write(self, dp_rank: int, cell: Cell) -> None:
        self._note(dp_rank, cell)
        self._cells[dp_rank][self._slot] = cell

    def _summed(self, dp_rank: int) -> InFlight:
        return in_flight(self._epochs[dp_rank], self._reports[dp_rank], self._cells[dp_rank])
