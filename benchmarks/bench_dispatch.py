"""
What one live decision costs: read the segments, choose a group, note the charge.

    python -m benchmarks.bench_dispatch --quick --groups 72 --methods minimum_tokens
    python -m benchmarks.bench_dispatch --groups 8 --front-doors 1,2,16,64
    python -m benchmarks.bench_dispatch --groups 2 --max-decisions 0

Times `Dispatcher.assign` of a front door on real segments, one of two front
doors unless told otherwise, in three cases:

    unchanged   nothing was published since the last decision
    changed     every group's report was, and each has accepted what was sent
    noted       another front door has noted a charge, one after the other in turn

Prompts have 1 to 2,000 tokens.  Methods that look at prefixes get them with named pages of 16,
of one of 64 beginnings that a group each has cached, and note what they expect.
A front door that decides more often than groups report sees mostly the first;
the second is the worst that a decision can meet.  Publishing is not timed.
Garbage is collected as in service.  Targets are for the 99th percentile.  Other
processes on the machine show there first, so the last column is the same percentile in CPU time of
the deciding thread, which they do not lengthen: `busy` says that only they made it miss a target.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial

from balancer.assignment import Assignment, End
from balancer.controller import Controller
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.methods import METHODS, PREFIX_METHODS, make_policy
from balancer.prefix_index import Change, PrefixEvent, PrefixIndex
from benchmarks.machine import machine_facts
from router.front_door.decision_log import DecisionLog
from router.front_door.dispatcher import Dispatcher, Segments
from router.front_door.garbage import calm_garbage_collection
from router.front_door.meters import Meters
from router.shared_memory import SharedMemory
from shm.board import Board, Cell
from shm.group_table import GroupEntry, GroupState, GroupTableReader, GroupTableWriter
from shm.load import Accepted, Ended, LoadReader, LoadReport, LoadWriter

TARGET_P99_US = {8: 50.0, 72: 200.0, 1024: 2000.0}
CASES = ("unchanged", "changed", "noted")
_SLOT, _EPOCH, _GROUP_EPOCH = 0, 1, 1
_MAX_LOAD_AGE_NS = 600_000_000_000  # no case takes as long, so no figures go stale in between
_PAGE_SIZE = 16
_NUM_BEGINNINGS = 64
_MAX_TOKENS = 2000
_WARM_UP = 20
_SEED = 1
_TITLE = (
    f"{'groups':6} {'doors':>5} {'case':10} {'method':15} {'n':>7} {'min us':>8} {'median':>8} "
    f"{'p99':>8} {'p99 CPU':>8} {'target':>8}"
)


@dataclass(frozen=True)
class Row:
    """One line of the table and of the JSON."""

    groups: int
    front_doors: int
    method: str
    case: str
    n: int
    min_us: float
    p50_us: float
    p99_us: float
    p99_cpu_us: float
    target_us: float | None

    def verdict(self) -> str:
        """The target beside the measurement."""
        if self.target_us is None:
            return "no target"
        if self.p99_us <= self.target_us:
            return f"{self.target_us:8.0f} met"
        return f"{self.target_us:8.0f} {'busy' if self.p99_cpu_us <= self.target_us else 'MISSED'}"


class Groups:
    """Plays every group, the publisher, the control plane, and the other front doors."""

    def __init__(
        self, instance: str, num_groups: int, num_front_doors: int, stack: ExitStack
    ) -> None:
        self._num_groups = num_groups
        self._num_front_doors = num_front_doors
        self._loads = LoadWriter.attach(instance, num_groups, num_front_doors)
        self._board = Board.attach(instance, writable=True)
        self._table = GroupTableWriter.attach(instance)
        for opened in (self._loads, self._board, self._table):
            stack.callback(opened.close)
        self._step = 0
        self._ended = [Ended(0, 0)] * num_groups

    def appear(self) -> None:
        """Put every group on the table."""
        entries = [
            GroupEntry(rank, GroupState.READY, _GROUP_EPOCH, "127.0.0.1", 1)
            for rank in range(self._num_groups)
        ]
        self._table.publish(entries, 0)

    def publish(self) -> None:
        """Publish a report of every group, each different from its last."""
        self._step += 1
        now_ns = time.monotonic_ns()
        self._loads.publish([self._report(r, now_ns) for r in range(self._num_groups)], now_ns)

    def end(self, assignment: Assignment) -> None:
        """A request has ended, as the next report tells."""
        dp_rank = assignment.dp_rank
        self._ended[dp_rank] = self._ended[dp_rank].plus(int(assignment.dp_balance_id, 16))

    def note(self) -> None:
        """Note a charge in the row of the next front door, for the next group."""
        self._step += 1
        row = 1 + self._step % (self._num_front_doors - 1)
        tokens = 100 * self._step
        cell = Cell(_EPOCH, _GROUP_EPOCH, tokens, self._step, 0, 0, 100, 1)
        self._board.write(row, self._step % self._num_groups, cell)

    def _report(self, dp_rank: int, now_ns: int) -> LoadReport:
        cell = self._board.read(_SLOT, dp_rank)
        sent = (cell.dispatched_tokens, cell.dispatched_requests)
        accepted = Accepted(_EPOCH, *sent, *self._ended[dp_rank])
        return LoadReport(
            dp_rank=dp_rank,
            group_epoch=_GROUP_EPOCH,
            sampled_ns=now_ns,
            holding_tokens=1000 + dp_rank * 7919 % 1000 + self._step % 13,
            running_requests=16,
            waiting_requests=self._step % 3,
            waiting_uncached_tokens=0,
            kv_used_tokens=1000,
            kv_capacity_tokens=1 << 20,
            max_requests=1 << 40,
            num_steps=self._step,
            step_time_ns=20_000_000,
            step_prefill_tokens=0,
            computing_tokens=0,
            accepted=(accepted, *[Accepted(0, 0, 0, 0, 0)] * (self._num_front_doors - 1)),
        )


def make_dispatcher(
    instance: str, num_groups: int, method: str, max_decisions: int, stack: ExitStack
) -> Dispatcher:
    """A front door's dispatcher, as the front door makes it."""
    segments = Segments(
        GroupTableReader.attach(instance),
        LoadReader.attach(instance),
        Board.attach(instance, writable=True),
    )
    stack.callback(segments.close)
    ledger = Ledger(
        slot=_SLOT,
        epoch=_EPOCH,
        num_front_doors=segments.board.num_rows,
        num_groups=num_groups,
        note=partial(segments.board.write, _SLOT),
    )
    controller = Controller(
        make_policy(method, random.Random(_SEED)),
        ledger,
        num_groups,
        random.Random(_SEED),
        _MAX_LOAD_AGE_NS,
        PrefixIndex(num_groups) if method in PREFIX_METHODS else None,
        keeps_decisions=max_decisions > 0,
    )
    told = (controller, segments, _SLOT, Meters(num_groups), time.monotonic_ns, lambda _: None)
    return Dispatcher(*told, decisions=DecisionLog(max_decisions))


def cached_beginnings(controller: Controller) -> list[list[int]]:
    """Digests of beginnings, each cached by a group; none if nobody looks at them."""
    index = controller.prefixes
    if index is None:
        return []
    rng, num_groups = random.Random(_SEED), len(controller.states)
    num_pages = _MAX_TOKENS // _PAGE_SIZE
    made = [[rng.getrandbits(64) for _ in range(num_pages)] for _ in range(_NUM_BEGINNINGS)]
    for number, digests in enumerate(made):
        index.observe(number % num_groups, PrefixEvent(Change.STORED, digests))
    return made


def time_decisions(
    dispatcher: Dispatcher, groups: Groups, between: Callable[[], None], count: int
) -> tuple[list[float], list[float]]:
    """Microseconds of count decisions, ascending, by the clock and of CPU; untimed `between`."""
    rng, times_us, cpu_us = random.Random(_SEED), [], []
    beginnings = cached_beginnings(dispatcher.controller)
    for number in range(_WARM_UP + count):
        shape = RequestShape(rng.randint(1, _MAX_TOKENS))
        if beginnings:
            pages = beginnings[number % len(beginnings)][: shape.prompt_tokens // _PAGE_SIZE]
            shape = shape._replace(page_digests=pages, page_size=_PAGE_SIZE)
        between()
        cpu_ns = time.thread_time_ns()
        began_ns = time.perf_counter_ns()
        assignment = dispatcher.assign(shape)
        times_us.append((time.perf_counter_ns() - began_ns) / 1e3)
        cpu_us.append((time.thread_time_ns() - cpu_ns) / 1e3)
        dispatcher.controller.release(assignment, End.COMPLETED)
        groups.end(assignment)
    return sorted(times_us[_WARM_UP:]), sorted(cpu_us[_WARM_UP:])


def measure(
    num_groups: int, num_front_doors: int, method: str, case: str, count: int, max_decisions: int
) -> Row:
    """One row, on segments of its own."""
    instance = f"bench.{os.getpid()}"
    with ExitStack() as stack:
        stack.enter_context(SharedMemory.create(instance, 1, num_groups, num_front_doors))
        groups = Groups(instance, num_groups, num_front_doors, stack)
        groups.appear()
        groups.publish()
        dispatcher = make_dispatcher(instance, num_groups, method, max_decisions, stack)
        between = {"unchanged": lambda: None, "changed": groups.publish, "noted": groups.note}[case]
        times_us, cpu_us = time_decisions(dispatcher, groups, between, count)
    return Row(
        groups=num_groups,
        front_doors=num_front_doors,
        method=method,
        case=case,
        n=count,
        min_us=round(times_us[0], 1),
        p50_us=round(_percentile(times_us, 50), 1),
        p99_us=round(_percentile(times_us, 99), 1),
        p99_cpu_us=round(_percentile(cpu_us, 99), 1),
        target_us=TARGET_P99_US.get(num_groups),
    )


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """Nearest-rank percentile."""
    return ascending[-(-len(ascending) * percent // 100) - 1]


def _num_decisions(case: str, num_groups: int, *, quick: bool) -> int:
    if case != "changed":
        return 2_000 if quick else 20_000
    return 200 if quick else max(1_000, 40_000 // num_groups)


def _line(row: Row) -> str:
    return (
        f"{row.groups:6} {row.front_doors:5} {row.case:10} {row.method:15} {row.n:7} "
        f"{row.min_us:8.1f} {row.p50_us:8.1f} {row.p99_us:8.1f} {row.p99_cpu_us:8.1f} "
        f"{row.verdict()}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="a tenth of the decisions")
    parser.add_argument("--groups", help=f"default: {','.join(map(str, TARGET_P99_US))}")
    parser.add_argument("--front-doors", default="2", help="numbers of them (default: 2)")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--max-decisions", type=int, default=1024, help="0: keep no reasons")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.groups.split(",")] if options.groups else TARGET_P99_US
    print(f"machine: {machine_facts()}")
    print(_TITLE)
    calm_garbage_collection()
    rows = []
    doors = [int(number) for number in options.front_doors.split(",")]
    for num_groups, num_doors, case in itertools.product(sizes, doors, CASES):
        if case == "noted" and num_doors == 1:
            continue
        count = _num_decisions(case, num_groups, quick=options.quick)
        for method in options.methods.split(","):
            rows.append(measure(num_groups, num_doors, method, case, count, options.max_decisions))
            print(_line(rows[-1]), flush=True)
    print()
    print(json.dumps({"rows": [asdict(row) for row in rows], "machine": machine_facts()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
