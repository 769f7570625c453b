"""What is left of the load when all is quiet, and of the instance when it has stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from shm.board import Board
from shm.load import LoadReader
from tests.e2e.instance import RunningInstance
from tests.faults.chaos.audit import flying_to
from tests.faults.chaos.processes import Process, is_running, mentioning
from tests.faults.chaos.watch import Watch, is_ready

READY_LIMIT_S = 120.0
QUIET_LIMIT_S = 60.0
_PAGE_TOKENS = 16
_LOOK_PERIOD_S = 0.2


class Residue(NamedTuple):
    """What should be zero.  open_requests: front doors' own; books: tokens they have open."""

    in_flight_tokens: int
    in_flight_requests: int
    held_requests: int
    holding_tokens: int
    kv_used_tokens: int
    open_requests: int
    book_tokens: int
    missing: int
    """Groups and front doors that do not say."""

    @property
    def ledger_tokens(self) -> int:
        """Every unit that the ledger has too much or too little."""
        return (
            self.in_flight_tokens
            + self.in_flight_requests
            + self.book_tokens
            + self.open_requests
            + self.missing
        )

    @property
    def pages(self) -> int:
        """
        KV pages that nobody can be using: rounded up.

        Pages of the prefix cache are kept on purpose and are none of them; that pages are
        either free or cached when it is idle, each group's engine checks itself.
        """
        return -(-self.kv_used_tokens // _PAGE_TOKENS) + self.held_requests


class Leaks(NamedTuple):
    """What a stopped instance left behind."""

    segments: int
    processes: int


def wait_for_groups(watch: Watch, num_groups: int, num_processes: int) -> bool:
    """Wait until every group is ready and every process there; False after READY_LIMIT_S."""

    def all_ready() -> bool:
        entries = watch.entries().values()
        num_ready = sum(is_ready(entry) for entry in entries)
        return num_ready == num_groups and len(watch.children()) == num_processes

    return _within(READY_LIMIT_S, all_ready)


def wait_for_quiet(instance: RunningInstance, num_groups: int, num_doors: int) -> Residue:
    """What is left when nothing more goes away: zero as soon as all is zero."""
    loads, board = LoadReader.attach(instance.name), Board.attach(instance.name)
    left: list[Residue] = []

    def is_zero() -> bool:
        left[:] = [_residue(loads, board, _figures(instance), num_groups, num_doors)]
        return not any(left[0])

    _within(QUIET_LIMIT_S, is_zero)
    loads.close()
    board.close()
    return left[0]


def leaks(instance: RunningInstance, run_dir: Path, ever: set[Process]) -> Leaks:
    """Look for segments and processes of an instance that has stopped."""
    left = {process.pid for process in ever if is_running(process)}
    return Leaks(len(instance.segments()), len(left | set(mentioning(str(run_dir)))))


def _within(limit_s: float, condition: Any) -> bool:
    until_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(_LOOK_PERIOD_S)
    return True


def _figures(instance: RunningInstance) -> dict[str, float]:
    """Sums over front doors of what their meters say; empty if nobody answers."""
    names = ("front_door_up", "open_requests", "ledger_drift_tokens")
    try:
        return {name: instance.metric(f"levelhead_{name}") for name in names}
    except httpx.HTTPError:
        return {}


def _residue(
    loads: LoadReader, board: Board, told: dict[str, float], num_groups: int, num_doors: int
) -> Residue:
    snapshot = loads.snapshot()
    reports = snapshot.reports if snapshot else ()
    rows = range(board.num_rows)
    cells = {r.dp_rank: [board.read(row, r.dp_rank) for row in rows] for r in reports}
    flying = [flying_to(report, cells[report.dp_rank]) for report in reports]
    current = [
        cell for r in reports for cell in cells[r.dp_rank] if cell.group_epoch == r.group_epoch
    ]
    return Residue(
        in_flight_tokens=sum(abs(each.tokens) for each in flying),
        in_flight_requests=sum(abs(each.requests) for each in flying),
        held_requests=sum(r.running_requests + r.waiting_requests for r in reports),
        holding_tokens=sum(r.holding_tokens for r in reports),
        kv_used_tokens=sum(r.kv_used_tokens for r in reports),
        open_requests=int(told.get("open_requests", 0)),
        book_tokens=sum(cell.book_tokens + cell.book_requests for cell in current),
        missing=num_groups - len(reports) + num_doors - int(told.get("front_door_up", 0)),
    )
