"""Puts a rank's part of a set together, as the flags say."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from workers.config import WorkerConfig
from workers.engine.runner import ModelRunner
from workers.lockstep.backend import choose_backend
from workers.lockstep.bell import Bell
from workers.lockstep.follower import Follower
from workers.lockstep.meeting import Attendance, make_group, make_nccl_group, meet
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
    rows, computing = met.all
    plans, group = met.group or (None, None)
    return LockstepRunner(
        inner, Ranks(rows, computing, bell, reports, config.num_front_doors, group, plans)
    )


def following(
    config: WorkerConfig, inner: ModelRunner, bind: Callable[[], socket.socket]
) -> Follower:
    """As in_lockstep, for a rank that another one of its group leads."""
    met = _meet(config, bind)
    assert met.group is not None
    computing = ComputingRanks(met.all.computing, met.group.computing)
    return Follower(inner, met.all.on_cpu, met.group.on_cpu, computing, config.num_front_doors)


class _Connected(NamedTuple):
    """The same ranks, over what is on the CPU and what they compute; may be the same."""

    on_cpu: RankGroup
    computing: RankGroup


class _Met(NamedTuple):
    """Ranks that have met: all, and those of the own group, if there is more than one."""

    all: _Connected
    group: _Connected | None
    store: Store
    own_store: Store


def _meet(config: WorkerConfig, bind: Callable[[], socket.socket]) -> _Met:
    place = config.parallelism
    num_devices = torch.cuda.device_count() if config.device == "cuda" else 0
    backend = choose_backend(config.device, place.tp_size, num_devices, dist.is_nccl_available())
    attendance = Attendance(place.tp_rank, place.tp_size, _settings(config))
    store, own_store = meet(config.run_dir, attendance, place.tp_rank, bind)

    def connect(name: str, rank: int, size: int) -> _Connected:
        here, limit_s = PrefixStore(name, store), config.dist_timeout_s
        on_cpu = make_group(here, rank, size, limit_s, is_staged=backend.is_staged)
        if backend.name != "nccl":
            return _Connected(on_cpu, on_cpu)
        return _Connected(on_cpu, make_nccl_group(here, rank, size, limit_s))

    everybody, group = connect("all", place.tp_rank, place.tp_size), None
    if place.attention_size > 1:
        name = f"group-{place.dp_rank}"
        group = connect(name, place.attention_rank, place.attention_size)
    logger.info(
        "rank %d of %d computes with the others, over %s: %s",
        *(place.tp_rank, place.tp_size, backend.name, backend.why),
    )
    return _Met(everybody, group, store, own_store)


def _settings(config: WorkerConfig) -> str:
    """What must be alike, or the ranks' tensors would not fit each other."""
    words = {
        "--model": config.model,
        "--device": config.device,
        "--dtype": config.dtype,
        "--tp-size": config.tp_size,
        "--dp-size": config.dp_size,
        "--max-model-len": config.max_model_len,
        "--max-total-tokens": config.max_total_tokens,
        "--page-size": config.page_size,
        "--num-front-doors": config.num_front_doors,
        "--enable-expert-parallel": config.enable_expert_parallel,
    }
    return " ".join(f"{flag} {value}" for flag, value in words.items())
