"""The parts of an engine about which flags decide."""

from __future__ import annotations

import torch

from workers.config import WorkerConfig
from workers.engine.engine import Runner
from workers.engine.forward_thread import ForwardThread, Lane, SameThread
from workers.engine.occupation import Memory
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import NoCache, PrefixCache
from workers.engine.radix_cache import RadixCache
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.waiting import Order, SchedulePolicy


def make_lane(config: WorkerConfig, device: torch.device) -> Lane:
    """
    Return where passes are computed.

    On a CPU in the step loop's own thread: threads that take turns there cost more than
    preparing does (benchmarks/LOG.md).
    """
    if device.type == "cpu" or config.disable_overlap_schedule:
        return SameThread()
    return ForwardThread()


def memory_of(config: WorkerConfig, runner: Runner) -> Memory | str:
    """Return what a group's memory is given back through, or why it cannot be."""
    if isinstance(runner, ModelRunner):
        return runner
    if config.is_emulated:
        return "an emulated rank has neither weights nor a KV cache: there is nothing to release"
    return (
        "with --enable-dp-attention all ranks compute with each other's weights: one group alone "
        "cannot release its memory; stop the instance instead"
    )


def make_cache(config: WorkerConfig) -> PrefixCache:
    """Return the prefix cache that the flags ask for."""
    return NoCache() if config.disable_radix_cache else RadixCache(config.page_size)


def make_scheduler(config: WorkerConfig, pool: PagePool, cache: PrefixCache) -> Scheduler:
    """Return the scheduler that the flags ask for."""
    limits = Limits(
        config.max_running_requests, config.max_queued_requests, config.chunked_prefill_size
    )
    return Scheduler(limits, pool, cache, Order(SchedulePolicy(config.schedule_policy)))
