"""Puts an emulated runner together, as the flags say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shm.load import LoadReport
from workers.config import WorkerConfig
from workers.emulation.barrier import Barrier
from workers.emulation.decode_pool import of_decode_pool
from workers.emulation.pace import OwnPace, Pace
from workers.emulation.pacer import Pacer, listen, pacer_path
from workers.emulation.pacer_client import PacerClient
from workers.emulation.runner import EmulatedRunner, sentence_tokens
from workers.emulation.step_log import StepLog
from workers.model.text import TextCodec
from workers.ranks.thread import OnFatal

_PACER_RANK = 0


def make_runner(config: WorkerConfig, codec: TextCodec, on_fatal: OnFatal) -> EmulatedRunner:
    """Return the runner; in rank 0 the pacer of all runs from now on.  Raises InvalidConfig."""
    return EmulatedRunner(_make_pace(config, on_fatal), sentence_tokens(codec))


def view_of_reports(config: WorkerConfig) -> Callable[[LoadReport], LoadReport]:
    """Return how others are to see what the step loop reports."""
    is_pool = config.is_emulated and not config.emulated_step_cost.per_prefill_token_ms
    return of_decode_pool if is_pool else _as_it_is


def _make_pace(config: WorkerConfig, on_fatal: OnFatal) -> Pace:
    rank, cost, path = config.dp_rank, config.emulated_step_cost, config.emulated_step_log
    if config.emulated_engine == "independent":
        own = None if path is None else Path(f"{path}.{rank}")
        return OwnPace(rank, Barrier(cost), StepLog(own, cost), time.monotonic)
    at = pacer_path(config.run_dir)
    if rank == _PACER_RANK:
        Pacer(listen(at), Barrier(cost), StepLog(path, cost), time.monotonic).start(on_fatal)
    return PacerClient(at, rank)


def _as_it_is(report: LoadReport) -> LoadReport:
    return report
