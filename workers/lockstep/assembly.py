"""Puts a rank's part of a set together, as the flags say."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import NamedTuple

from torch.distributed.distributed_c10d import PrefixStore, Store

from workers.config import WorkerConfig
from workers.engine.runner import ModelRunner
from workers.lockstep.bell import Bell
from workers.lockstep.follower import Follower
from workers.lockstep.meeting import Attendance, make_group, meet
from workers.lockstep.pass_exchange import ComputingRanks
from workers.lockstep.reporting import RowReporting
from workers.lockstep.runner import LockstepRunner, Ranks
from workers.ranks.rank_group import RankGroup

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
    met = _meet(config, bind)
    bell = Bell(met.store, met.own_store, sweeps=config.parallelism.tp_rank == 0)
    ranks = Ranks(met.all, met.all, bell, reports, config.num_front_doors, met.group)
    return LockstepRunner(inner, ranks)


def following(
    config: WorkerConfig, inner: ModelRunner, bind: Callable[[], socket.socket]
) -> Follower:
    """As in_lockstep, for a rank that another one of its group leads."""
    met = _meet(config, bind)
    return Follower(inner, met.all, ComputingRanks(met.all, met.group), config.num_front_doors)


class _Met(NamedTuple):
    """Ranks that have met: all, and those of the own group, if there is more than one."""

    all: RankGroup
    group: RankGroup | None
    store: Store
    own_store: Store


def _meet(config: WorkerConfig, bind: Callable[[], socket.socket]) -> _Met:
    place, limit_s = config.parallelism, config.dist_timeout_s
    attendance = Attendance(place.tp_rank, place.tp_size, _settings(config))
    store, own_store = meet(config.run_dir, attendance, place.tp_rank, bind)
    everybody = make_group(store, place.tp_rank, place.tp_size, limit_s)
    group = None
    if place.attention_size > 1:
        name = PrefixStore(f"group-{place.dp_rank}", store)
        group = make_group(name, place.attention_rank, place.attention_size, limit_s)
    logger.info("rank %d of %d computes with the others", place.tp_rank, place.tp_size)
    return _Met(everybody, group, store, own_store)


def _settings(config: WorkerConfig) -> str:
    """What must be alike, or the ranks' tensors would not fit each other."""
    words = {
        "--model": config.model,
        "--dtype": config.dtype,
        "--tp-size": config.tp_size,
        "--dp-size": config.dp_size,
        "--max-total-tokens": config.max_total_tokens,
        "--page-size": config.page_size,
        "--num-front-doors": config.num_front_doors,
        "--enable-expert-parallel": config.enable_expert_parallel,
    }
    return " ".join(f"{flag} {value}" for flag, value in words.items())
