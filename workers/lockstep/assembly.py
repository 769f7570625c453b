"""Puts a rank's part of a set together, as the flags say."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from workers.config import WorkerConfig
from workers.engine.runner import ModelRunner
from workers.lockstep.bell import Bell
from workers.lockstep.meeting import Attendance, make_group, meet
from workers.lockstep.reporting import RowReporting
from workers.lockstep.runner import LockstepRunner, Ranks

logger = logging.getLogger("levelhead.workers.lockstep")


def in_lockstep(
    config: WorkerConfig,
    inner: ModelRunner,
    reports: RowReporting,
    bind: Callable[[], socket.socket],
) -> LockstepRunner:
    """
    Meet the other ranks, and return the runner that steps with them.

    bind: a socket bound to a free port.  Raises InvalidConfig or SetBroken.
    """
    rank, size = config.parallelism.tp_rank, config.parallelism.tp_size
    attendance = Attendance(rank, size, _settings(config))
    store, own_store = meet(config.run_dir, attendance, rank, bind)
    group = make_group(store, rank, size, config.dist_timeout_s)
    logger.info("rank %d of %d computes with the others", rank, size)
    bell = Bell(store, own_store, sweeps=rank == 0)
    return LockstepRunner(inner, Ranks(group, group, bell, reports, config.num_front_doors))


def _settings(config: WorkerConfig) -> str:
    """What must be alike, or the ranks' tensors would not fit each other."""
    words = {
        "--model": config.model,
        "--dtype": config.dtype,
        "--tp-size": config.tp_size,
        "--dp-size": config.dp_size,
        "--num-front-doors": config.num_front_doors,
        "--enable-expert-parallel": config.enable_expert_parallel,
    }
    return " ".join(f"{flag} {value}" for flag, value in words.items())
