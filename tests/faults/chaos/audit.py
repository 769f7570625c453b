"""
The audit of the ledger: reads the segments as anybody may, and checks the law all the time.

Per group, in the epoch of its newest report, in-flight tokens and requests are never negative:
that would be a charge that was accepted twice, or accepted and never dispatched.  The load segment
is read before the board, as the law demands; what the board says later can only be more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from shm.board import Board, Cell
from shm.errors import TornRead
from shm.load import LoadReader, LoadReport

PERIOD_S = 0.05


class Flying(NamedTuple):
    """Charges on their way to a group."""

    tokens: int
    requests: int


def flying_to(report: LoadReport, cells: Sequence[Cell]) -> Flying:
    """Dispatched - returned - accepted, in the report's epoch, over all rows of the board."""
    tokens = requests = 0
    for row, cell in enumerate(cells):
        if cell.group_epoch != report.group_epoch:
            continue
        tokens += cell.dispatched_tokens - cell.returned_tokens
        requests += cell.dispatched_requests - cell.returned_requests
        accepted = report.accepted[row]
        if accepted.front_door_epoch == cell.front_door_epoch:
            tokens -= accepted.tokens
            requests -= accepted.requests
    return Flying(tokens, requests)


class Violation(NamedTuple):
    """A group with less than nothing in flight."""

    dp_rank: int
    group_epoch: int
    flying: Flying
    report: LoadReport
    cells: tuple[Cell, ...]


class LawBook:
    """Remembers which violations are under way, so that each is counted once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.num_looks = 0
        self._wrong: set[tuple[int, int]] = set()

    def look(self, report: LoadReport, cells: Sequence[Cell]) -> Flying:
        """Take in one group's figures; cells were read after the report."""
        self.num_looks += 1
        epoch = report.group_epoch
        flying = flying_to(report, cells)
        key = (report.dp_rank, epoch)
        if flying.tokens >= 0 and flying.requests >= 0:
            self._wrong.discard(key)
        elif key not in self._wrong:
            self._wrong.add(key)
            self.violations.append(Violation(*key, flying, report, tuple(cells)))
        return flying


class Audit:
    """A thread that reads the segments of an instance until it is closed."""

    def __init__(self, instance: str) -> None:
        self._loads = LoadReader.attach(instance)
        self._board = Board.attach(instance)
        self.book = LawBook()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit")
        self._thread.start()

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._loads.close()
        self._board.close()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._look()

    def _look(self) -> None:
        try:
            snapshot = self._loads.snapshot()
        except TornRead:
            return
        if snapshot is not None:
            for report in snapshot.reports:
                cells = [
                    self._board.read(row, report.dp_rank) for row in range(self._board.num_rows)
                ]
                self.book.look(report, cells)
