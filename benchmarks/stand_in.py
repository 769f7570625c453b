"""
Stands in for control plane and TP0, so that a front door can be measured alone.

Makes an instance (segments, folder, group table) over given upstream ports and
publishes a load report for every group at a steady rate, as an engine whose
steps take that long would.  A charge counts as accepted in the report after it
was dispatched, so the ledger is exercised as in service.

Run as a process: prints `ready` when the front door may start, and removes
everything when it is told to end.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path

from router.instance import Instance
from router.shared_memory import SharedMemory
from shm.board import Board
from shm.group_table import GroupEntry, GroupState, GroupTableWriter
from shm.load import Accepted, LoadReport, LoadWriter

_GROUP_EPOCH = 1
_CAPACITY_TOKENS = 1 << 20


def main() -> None:
    """Publish until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stand_in")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream-ports", type=int, nargs="+", required=True)
    parser.add_argument("--method", default="minimum_tokens")
    parser.add_argument("--period-s", type=float, default=0.02)
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ports = arguments.upstream_ports
    instance = Instance(
        name=f"bench{arguments.port}",
        epoch=time.time_ns(),
        run_dir=str(arguments.run_dir),
        host="127.0.0.1",
        port=arguments.port,
        dp_size=len(ports),
        method=arguments.method,
        log_level="warning",
    )
    instance.save()
    with SharedMemory.create(instance.name, instance.epoch, len(ports), doors=1):
        _publish_table(instance, ports)
        print("ready", flush=True)
        _publish_loads(instance, arguments.period_s, stop)


def _publish_table(instance: Instance, ports: list[int]) -> None:
    table = GroupTableWriter.attach(instance.name)
    table.publish(
        (
            GroupEntry(rank, GroupState.READY, _GROUP_EPOCH, instance.host, port, "bench", 8192)
            for rank, port in enumerate(ports)
        ),
        time.monotonic_ns(),
    )
    table.close()


def _publish_loads(instance: Instance, period_s: float, stop: threading.Event) -> None:
    writer = LoadWriter.attach(instance.name, instance.dp_size, 1)
    board = Board.attach(instance.name)
    num_steps = 0
    while not stop.wait(period_s):
        num_steps += 1
        now_ns = time.monotonic_ns()
        reports = [_report(board, rank, num_steps, now_ns) for rank in range(instance.dp_size)]
        writer.publish(reports, now_ns)
    writer.close()
    board.close()


def _report(board: Board, dp_rank: int, num_steps: int, now_ns: int) -> LoadReport:
    cell = board.read(0, dp_rank)
    sent = cell.dispatched_requests  # and all has ended: it holds what it says, whatever comes
    accepted = Accepted(cell.front_door_epoch, cell.dispatched_tokens, sent, sent, 0)
    return LoadReport(
        dp_rank=dp_rank,
        group_epoch=_GROUP_EPOCH,
        sampled_ns=now_ns,
        holding_tokens=1000 + dp_rank,
        running_requests=4,
        waiting_requests=0,
        waiting_uncached_tokens=0,
        kv_used_tokens=1000,
        kv_capacity_tokens=_CAPACITY_TOKENS,
        max_requests=1 << 20,
        num_steps=num_steps,
        step_time_ns=20_000_000,
        step_prefill_tokens=0,
        computing_tokens=0,
        accepted=(accepted,),
    )


if __name__ == "__main__":
    main()
