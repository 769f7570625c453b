"""The parts of an engine about which flags decide."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from workers.model.config import ModelConfig
from workers.model.decode_graphs import Bounds, CudaRecorder, DecodeGraphs
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel

logger = logging.getLogger("levelhead.workers")


def make_lane(config: WorkerConfig, device: torch.device) -> Lane:
    """
    Return where passes are computed.

    On a CPU in the step loop's own thread: threads that take turns there cost more than
    preparing does (benchmarks/LOG.md).
    """
    if device.type == "cpu" or config.disable_overlap_schedule:
        return SameThread()
    return ForwardThread()


def make_graphs(
    config: WorkerConfig, device: torch.device, model: ModelConfig, max_model_len: int
) -> Callable[[LlamaModel, KVCache], DecodeGraphs] | None:
    """Return what makes recorded passes of decode batches; None if each is launched anew."""
    why_not = why_no_graphs(config, device.type, model)
    if why_not is not None:
        if device.type == "cuda":
            logger.info("decode batches are not recorded as CUDA graphs: %s", why_not)
        return None
    most = config.max_running_requests
    bounds = Bounds(min(config.cuda_graph_max_bs or most, most), max_model_len)
    return lambda model, kv: DecodeGraphs(model, kv, bounds, CudaRecorder(device))


def why_no_graphs(config: WorkerConfig, device_type: str, model: ModelConfig) -> str | None:
    """Return why decode batches cannot be, or are not to be, recorded; None if they are."""
    if device_type != "cuda":
        return f"a {device_type} launches nothing"
    if config.disable_cuda_graph:
        return "--disable-cuda-graph"
    if config.enable_dp_attention:
        return "with --enable-dp-attention ranks exchange rows whose number changes"
    if model.experts is not None:
        return "how many rows an expert computes is not known before"
    if model.latent is not None:
        return "for attention over latents that has not been tried"
    return None


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
