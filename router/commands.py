"""The command lines of an instance's processes, out of its options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from router.instance import Instance
from router.options import ServeOptions

_TUNABLES = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.mmap_threshold": "33554432",
    "glibc.malloc.trim_threshold": "1073741824",
}
_OLD_NAMES = {
    "glibc.malloc.mmap_threshold": "MALLOC_MMAP_THRESHOLD_",
    "glibc.malloc.trim_threshold": "MALLOC_TRIM_THRESHOLD_",
}
_SPIN_COUNT = "10000"


def front_door(instance: Instance, slot: int) -> list[str]:
    """`python -m` arguments of a front door."""
    return ["router.front_door", "--run-dir", instance.run_dir, "--slot", str(slot)]


def control_plane(instance: Instance) -> list[str]:
    """`python -m` arguments of the control plane."""
    return ["router.control_plane", "--run-dir", instance.run_dir]


def worker(
    instance: Instance, options: ServeOptions, model_path: Path, rank: int | None
) -> list[str]:
    """
    `python -m` arguments of a rank, in each of its lives.

    rank: its number among all; None: whoever starts it tells it that.
    """
    flags = {
        **_place(instance, options, rank),
        "model": model_path,
        "served-model-name": instance.served_model_name,
        "device": options.device,
        "dtype": options.dtype,
        "threads": threads_per_rank(options),
        **emulation_flags(options),
        **_limits(options),
        "drain-timeout-s": options.drain_timeout_s,
        "watchdog-timeout": options.watchdog_timeout_s,
        "seed": options.seed,
        "log-level": options.log_level,
    }
    given = [(f"--{flag}", str(value)) for flag, value in flags.items() if value is not None]
    switches = {
        "--disable-radix-cache": options.disable_radix_cache,
        "--disable-overlap-schedule": options.disable_overlap_schedule,
        "--disable-cuda-graph": options.disable_cuda_graph,
        "--enable-dp-attention": options.enable_dp_attention,
        "--enable-expert-parallel": options.enable_expert_parallel,
    }
    on = [switch for switch, is_on in switches.items() if is_on]
    return ["workers", *(word for pair in given for word in pair), *on]


def torchrun(instance: Instance, options: ServeOptions, model_path: Path) -> list[str]:
    """`python -m` arguments of the launcher of all ranks."""
    return [
        *("torch.distributed.run", "--standalone", "--max-restarts", "0"),
        *("--nproc-per-node", str(options.num_ranks)),
        *("-m", *worker(instance, options, model_path, None)),
    ]


def _place(
    instance: Instance, options: ServeOptions, rank: int | None
) -> dict[str, str | int | float | None]:
    together = options.enable_dp_attention
    return {
        "instance": instance.name,
        "instance-epoch": instance.epoch,
        "run-dir": instance.run_dir,
        "dp-rank": None if rank is None else rank * options.dp_size // options.num_ranks,
        "dp-size": options.dp_size,
        "tp-rank": rank if together else None,
        "tp-size": options.tp_size if together else None,
        "dist-timeout": options.dist_timeout_s if together else None,
        "num-front-doors": instance.num_front_doors,
    }


def _limits(options: ServeOptions) -> dict[str, str | int | None]:
    return {
        "max-model-len": options.max_model_len,
        "max-running-requests": options.max_running_requests,
        "max-queued-requests": options.max_queued_requests,
        "max-total-tokens": options.max_total_tokens,
        "chunked-prefill-size": options.chunked_prefill_size,
        "page-size": options.page_size,
        "schedule-policy": options.schedule_policy,
        "cuda-graph-max-bs": options.cuda_graph_max_bs,
        "max-request-bytes": options.max_request_bytes,
    }


def emulation_flags(options: ServeOptions) -> dict[str, str | Path | None]:
    """What emulated ranks are told, of what was given."""
    cost, log = options.emulated_step_cost, options.emulated_step_log
    return {
        "emulated-step-cost": None if cost is None else ",".join(map(repr, cost)),
        "emulated-engine": options.emulated_engine,
        "emulated-step-log": None if log is None else log.absolute(),
    }


def worker_environment(
    instance: Instance, options: ServeOptions, own: Mapping[str, str]
) -> dict[str, str]:
    """
    What a rank has in its environment beside `own`, which is the root's.

    The instance's secret, which other users could read on a command line.  The number of
    threads, for the libraries under torch.  And what makes a decode step fast on a CPU
    (benchmarks/LOG.md): glibc is asked for huge pages, and to keep what it is given back; a
    thread of GNU's OpenMP spins for a tenth of a millisecond before it sleeps, which lasts
    from one operation to the next, and not for the milliseconds that take the cores away
    from whoever else needs them.  There what the operator has set wins.
    """
    threads = str(threads_per_rank(options))
    given = {
        "LEVELHEAD_INSTANCE_KEY": instance.instance_key,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    tunables = [
        f"{name}={value}"
        for name, value in _TUNABLES.items()
        if _OLD_NAMES.get(name, name) not in own
    ]
    if "GLIBC_TUNABLES" in own:
        tunables.append(own["GLIBC_TUNABLES"])  # the last of two values counts
    given["GLIBC_TUNABLES"] = ":".join(tunables)
    if not own.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        given["GOMP_SPINCOUNT"] = _SPIN_COUNT
    return given


def threads_per_rank(options: ServeOptions) -> int:
    """CPU threads of each rank: as told, or the cores shared out, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return options.threads_per_rank or max(1, (cores or 1) // options.num_ranks)
