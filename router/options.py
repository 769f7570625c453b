"""
What `levelhead serve` was asked to do.

Every value is checked before anything starts: a bad one names flag, value and
what is allowed.  Each flag alone is checked by its type in router.flags; what
is said of several, or of the environment, here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.methods import REPORT_METHODS
from balancer.simulation.step_time import StepTime
from router.backends.backend import Backend
from router.backends.flags import SOURCES, check_backends
from router.backends.kubernetes.flags import check_kubernetes
from router.backends.readings.reading import LEAST_LOAD_AGE_S
from router.emulation_flags import check_emulation
from router.errors import ConfigError
from router.flags import serve_parser
from router.health_flags import take_health_rules
from router.health_rules import HealthRules
from router.parallel_flags import Launcher, check_parallelism
from router.tokenizer_flag import check_tokenizer

_KEYS = {"api_key": "LEVELHEAD_API_KEY", "admin_api_key": "LEVELHEAD_ADMIN_API_KEY"}


# What the engine of a backend decides, and what needs reports of what a group has room for.
_OF_OUR_WORKERS = (
    "dp_size", "tp_size", "enable_dp_attention", "enable_expert_parallel", "dist_timeout_s",
    "launcher",
    "model", "served_model_name", "max_model_len", "device", "dtype",
    "threads_per_rank", "max_running_requests", "max_queued_requests", "max_total_tokens",
    "chunked_prefill_size", "page_size", "schedule_policy", "disable_radix_cache",
    "disable_overlap_schedule", "disable_cuda_graph", "cuda_graph_max_bs",
    "admission", "prefill_align", "max_restart_wait_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The flags, each under its own name."""

    backends: tuple[Backend, ...]
    backends_file: str | None
    backend_dns: tuple[str, ...]
    backend_kubernetes: tuple[str, ...]
    """Neither these nor any source of them: the groups are workers of ours."""
    kubernetes_api: str | None
    kubernetes_token_file: str | None
    kubernetes_ca_file: str | None
    """These three: see router.backends.kubernetes.flags."""
    tokenizer_path: Path | None
    """Of the backends' model; None: their prompts are estimated."""
    model: str
    served_model_name: str | None
    dp_size: int
    tp_size: int
    """Ranks of the set that computes together; 1 if each group is one rank alone."""
    enable_dp_attention: bool
    enable_expert_parallel: bool
    dist_timeout_s: float
    launcher: Launcher
    load_balance_method: str
    max_load_age_s: float
    in_flight_board: bool
    admission: str
    prefill_align: str
    max_hold_ms: int
    max_waiting_requests: int
    max_restart_wait_s: float
    health: HealthRules
    host: str
    port: int
    front_doors: int
    api_key: str | None
    admin_api_key: str | None
    max_model_len: int | None
    device: str
    emulated_step_cost: StepTime | None
    emulated_engine: str | None
    emulated_step_log: Path | None
    """These three only of emulated ranks; None: as they have it themselves."""
    dtype: str
    threads_per_rank: int | None
    max_running_requests: int
    max_queued_requests: int
    max_total_tokens: int
    chunked_prefill_size: int
    page_size: int
    schedule_policy: str
    disable_radix_cache: bool
    disable_overlap_schedule: bool
    disable_cuda_graph: bool
    cuda_graph_max_bs: int | None
    max_request_bytes: int
    retry_max_retries: int
    drain_timeout_s: float
    request_log: Path | None
    watchdog_timeout_s: float
    instance: str | None
    cache_dir: Path
    seed: int
    log_level: str
    max_groups: int | None
    """Slots for groups of backends; None: as many as usual."""

    @property
    def num_ranks(self) -> int:
        """Processes that compute, in all."""
        return self.tp_size if self.enable_dp_attention else self.dp_size

    @property
    def ranks_are_a_set(self) -> bool:
        """Whether they live and end together, because they compute so or are started so."""
        return self.enable_dp_attention or self.launcher is Launcher.TORCHRUN

    @property
    def has_backends(self) -> bool:
        """Whether groups are other people's engines, of which there may be none yet."""
        sources = (self.backends_file, self.backend_dns, self.backend_kubernetes)
        return bool(self.backends or any(sources))


def parse_serve(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> ServeOptions:
    """Return the options.  Raises ConfigError; --help prints and exits."""
    parser = serve_parser(environment)
    given = vars(parser.parse_args(arguments))
    for source in ("backends", "backend_dns", "backend_kubernetes"):
        given[source] = tuple(given[source])
    if any(given[source] for source in SOURCES):
        _refuse_for_backends(given, parser.get_default)
    elif given["max_groups"] is not None:
        raise ConfigError("--max-groups", given["max_groups"], "is for backends: with --backend")
    check_backends(given, environment)
    check_kubernetes(given, environment)
    for name, variable in _KEYS.items():
        if given[name] is None:  # not the flag's default: --help would print it
            given[name] = environment.get(variable)
        if given[name] == "":
            flag = "--" + name.replace("_", "-")
            raise ConfigError(flag, "''", "an empty key would let everybody in; leave it out")
    check_tokenizer(given)
    check_emulation(given)
    given["health"] = take_health_rules(given)
    check_parallelism(given)
    return ServeOptions(in_flight_board=not given.pop("no_in_flight_board"), **given)


def _refuse_for_backends(given: Mapping[str, Any], default: Callable[[str], Any]) -> None:
    """Raise ConfigError for a flag that is about workers of ours."""
    for name in _OF_OUR_WORKERS:
        if given[name] != default(name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(flag, given[name], "is for workers of ours: not with backends")
    if given["load_balance_method"] in REPORT_METHODS:
        raise ConfigError(
            "--load-balance-method",
            given["load_balance_method"],
            "weighs what groups report, and backends are weighed with our books",
        )
    if given["max_load_age_s"] < LEAST_LOAD_AGE_S:
        raise ConfigError(
            "--max-load-age",
            given["max_load_age_s"],
            f"with backends, whose figures are read twice a second, {LEAST_LOAD_AGE_S:g} or more",
        )
