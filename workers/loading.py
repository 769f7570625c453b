"""
A rank from its flags to the moment at which it could serve: device, weights, KV cache, reports.

No rank waits for another here, unless they compute together: those meet once they are
loaded.  A life is begun once, while loading: its epoch is later than that of any before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from shm.load import LoadReport
from workers.card import Card
from workers.config import WorkerConfig
from workers.emulation.assembly import make_runner, view_of_reports
from workers.engine.batch import BatchBuilder
from workers.engine.engine import Runner
from workers.engine.meter import GroupId
from workers.engine.pages import PagePool
from workers.engine.runner import ModelRunner
from workers.errors import InvalidConfig
from workers.lockstep.assembly import following, in_lockstep
from workers.lockstep.barrier_totals import BarrierTotals
from workers.lockstep.follower import Follower
from workers.lockstep.reporting import RowReporting
from workers.model.checkpoint import Checkpoint, open_checkpoint
from workers.model.config import ModelConfig
from workers.model.kv_cache import KVCache
from workers.model.sampling import Sampler
from workers.model.text import TextCodec
from workers.parts import make_graphs, make_lane
from workers.placement import Machine, choose_device, choose_dtype
from workers.ranks.links import choose_interface
from workers.ranks.reporting import TP0, Place, Reporting, last_reports
from workers.ranks.thread import OnFatal
from workers.server.serving import bind
from workers.weights import Weights

logger = logging.getLogger("levelhead.workers")


class Reports(Protocol):
    """Where the step loop's reports go: Reporting, or RowReporting."""

    def put(self, report: LoadReport) -> None:
        """Replace what was handed over before; never waits."""

    def start(self) -> None:
        """Begin to send or publish: this rank serves."""


class Loaded(NamedTuple):
    """
    A rank that is ready to serve.

    seen_as: how others see what its step loop reports.  barrier: what waiting for each other
    costs; of rank 0 of those that compute together.
    """

    config: WorkerConfig
    group: GroupId
    codec: TextCodec
    runner: Runner
    pool: PagePool
    max_model_len: int
    reports: Reports
    seen_as: Callable[[LoadReport], LoadReport]
    barrier: BarrierTotals | None = None


def load(config: WorkerConfig, on_fatal: OnFatal) -> Loaded:
    """
    Do all that comes before serving; on_fatal is called when reporting has failed for good.

    Raises InvalidConfig, ModelError or SegmentError for what cannot work.
    """
    started = time.monotonic()
    logger.info("loading %s", config.model)
    checkpoint = open_checkpoint(config.model)
    try:
        codec = checkpoint.tokenizer()
        max_model_len = _max_model_len(config, checkpoint.config)
        codec.save(tokenizer_dir(config))
        group = _group(config)
        pool = PagePool(config.max_total_tokens // config.page_size, config.page_size)
        model = None
        if not config.is_emulated:
            model = _model_runner(config, checkpoint, max_model_len, pool.capacity_tokens)
    finally:
        checkpoint.close()
    took_s = time.monotonic() - started
    logger.info("loaded in %.1f s, room for %d tokens", took_s, pool.capacity_tokens)
    runner: Runner = make_runner(config, codec, on_fatal) if model is None else model
    choose_interface(config.host)
    place, barrier = _in_the_instance(config, group), None
    if config.enable_dp_attention and model is not None:
        rows = _row_reporting(config, place, on_fatal)
        reports: Reports = rows
        barrier = rows.barrier
        runner = in_lockstep(config, model, rows, partial(bind, config.host))
    else:
        reports = Reporting(place, partial(bind, config.host), on_fatal)
    seen_as = view_of_reports(config)
    return Loaded(config, group, codec, runner, pool, max_model_len, reports, seen_as, barrier)


def _row_reporting(config: WorkerConfig, place: Place, on_fatal: OnFatal) -> RowReporting:
    ranks = config.parallelism
    return RowReporting(
        place, on_fatal, publishes=ranks.tp_rank == TP0, attention_size=ranks.attention_size
    )


def load_follower(config: WorkerConfig) -> Follower:
    """
    Do all that comes before following, and meet the other ranks.

    Raises InvalidConfig or ModelError for what cannot work, and SetBroken.
    """
    logger.info("loading %s", config.model)
    checkpoint = open_checkpoint(config.model)
    try:
        max_model_len = _max_model_len(config, checkpoint.config)
        capacity = PagePool(config.max_total_tokens // config.page_size, config.page_size)
        inner = _model_runner(config, checkpoint, max_model_len, capacity.capacity_tokens)
    finally:
        checkpoint.close()
    choose_interface(config.host)
    return following(config, inner, partial(bind, config.host))


def _model_runner(
    config: WorkerConfig, checkpoint: Checkpoint, max_model_len: int, capacity_tokens: int
) -> ModelRunner:
    """Load the weights and allocate the KV cache."""
    ranks, found = config.parallelism, checkpoint.config
    ranks.check_heads(found.num_shareable_heads)
    device, dtype = _place(config)
    heads = ranks.attention_shard
    of_model = _model_config(config, found)
    weights = Weights(config.model, found, of_model, device, dtype, ranks.shard, heads)
    model = weights.load(checkpoint)
    kv = KVCache.allocate(model.config, capacity_tokens, device, dtype, heads)
    batches = BatchBuilder(max_model_len, config.page_size, device)
    logger.info("%s on %s", dtype, device)
    lane = make_lane(config, device)
    sampler, again = Sampler(config.seed), weights.load_again
    graphs = make_graphs(config, device, model.config, max_model_len)
    return ModelRunner(model, kv, batches, sampler, config.threads, lane, again, graphs)


def _model_config(config: WorkerConfig, model: ModelConfig) -> ModelConfig:
    """The model's, with what flags say of its experts.  Raises InvalidConfig if it has none."""
    if not config.enable_expert_parallel:
        return model
    if model.experts is None:
        raise InvalidConfig(f"--enable-expert-parallel: {config.model} has no experts")
    return replace(model, experts=replace(model.experts, is_expert_parallel=True))


def next_epoch(now_ns: int, card_epoch: int, reports: Iterable[LoadReport], dp_rank: int) -> int:
    """
    Return the epoch of a group's new life: the time, unless its last life had a later one.

    Clocks are set back.  A life that ended well has taken its card away, but its
    last report is still published.
    """
    reported = [report.group_epoch for report in reports if report.dp_rank == dp_rank]
    return max(now_ns, card_epoch + 1, *(epoch + 1 for epoch in reported))


def tokenizer_dir(config: WorkerConfig) -> Path:
    """Where every rank saves the tokenizer, for front doors."""
    return (config.run_dir / "tokenizer").resolve()


def _group(config: WorkerConfig) -> GroupId:
    """Begin a life.  Raises InvalidConfig or SegmentError if the load segment is not there."""
    reports = last_reports(config.instance, config.instance_epoch)
    card_epoch = Card.last_epoch(config.run_dir, config.dp_rank)
    return GroupId(config.dp_rank, next_epoch(time.time_ns(), card_epoch, reports, config.dp_rank))


def _max_model_len(config: WorkerConfig, model: ModelConfig) -> int:
    """Return the context length.  Raises InvalidConfig if the one asked for is impossible."""
    capacity = config.max_total_tokens // config.page_size * config.page_size
    asked = config.max_model_len
    if asked is None:
        if capacity < model.max_model_len:
            logger.warning(
                "context cut from %d to %d tokens, the KV cache has no room for more",
                model.max_model_len,
                capacity,
            )
        return min(model.max_model_len, capacity)
    limits = {"the model's": model.max_model_len, "--max-total-tokens allows": capacity}
    if config.is_emulated:
        del limits["the model's"]
    for name, limit in limits.items():
        if asked > limit:
            raise InvalidConfig(f"--max-model-len is {asked}; {name} {limit}")
    return asked


def _place(config: WorkerConfig) -> tuple[torch.device, torch.dtype]:
    """Choose device and dtype; a CUDA device is made this process's own."""
    machine = Machine.here()
    number, size = config.dp_rank, config.dp_size
    if config.enable_dp_attention:
        number, size = config.parallelism[:2]
    device = choose_device(config.device, number, size, machine)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device, choose_dtype(config.dtype, device, machine)


def _in_the_instance(config: WorkerConfig, group: GroupId) -> Place:
    return Place(
        group,
        config.dp_size,
        config.num_front_doors,
        config.instance,
        config.instance_epoch,
        config.run_dir,
    )
