"""
The flags of a worker, and what they may be.

Values are checked here once; what depends on the model (its context, its
vocabulary) is checked when it is open.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from workers import torchrun
from workers.emulation.step_cost import StepCost
from workers.engine.waiting import SchedulePolicy
from workers.errors import InvalidConfig
from workers.flag_types import at_least, not_negative, positive
from workers.parallelism import Parallelism, add_parallelism

EMULATED = "emulated"
MAX_HEARTBEAT_S = 30.0
MIN_WATCHDOG_BEATS = 4
"""Heartbeats that an idle group may miss, at least, before it counts as hung."""
INSTANCE_KEY = "LEVELHEAD_INSTANCE_KEY"
"""Environment variable, because everybody on the machine may read a command line."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """
    One rank's flags, and its instance's key.  Raises InvalidConfig.

    instance_key: what requests must bring; None: they need not bring any.
    """

    instance: str
    instance_epoch: int
    run_dir: Path
    dp_rank: int
    dp_size: int
    num_front_doors: int
    model: Path
    served_model_name: str
    device: str
    dtype: str
    threads: int
    host: str
    max_model_len: int | None = None
    emulated_step_cost: StepCost = StepCost()  # noqa: RUF009 - a tuple of constants
    emulated_engine: str = "lockstep"
    emulated_step_log: Path | None = None
    max_running_requests: int
    max_queued_requests: int
    max_total_tokens: int
    chunked_prefill_size: int
    page_size: int
    schedule_policy: str
    disable_radix_cache: bool
    disable_overlap_schedule: bool
    disable_cuda_graph: bool = False
    cuda_graph_max_bs: int | None = None
    max_request_bytes: int
    seed: int
    heartbeat_s: float
    drain_timeout_s: float
    watchdog_timeout_s: float
    log_level: str
    enable_dp_attention: bool = False
    tp_size: int = 1
    tp_rank: int | None = None
    enable_expert_parallel: bool = False
    dist_timeout_s: float = 120.0
    instance_key: str | None = field(default=None, repr=False)

    @property
    def is_emulated(self) -> bool:
        """Whether steps are not computed, but only take their time."""
        return self.device == EMULATED

    @property
    def parallelism(self) -> Parallelism:
        """This rank's place in the set that computes together, which may be a set of one."""
        if not self.enable_dp_attention:
            return Parallelism(0, 1, 0, 1)
        first = self.dp_rank * (self.tp_size // self.dp_size)
        tp_rank = first if self.tp_rank is None else self.tp_rank
        return Parallelism(tp_rank, self.tp_size, self.dp_rank, self.dp_size)

    def __post_init__(self) -> None:
        if self.dp_rank >= self.dp_size:
            raise InvalidConfig(
                f"--dp-rank is {self.dp_rank}; with --dp-size {self.dp_size} it must be in "
                f"[0, {self.dp_size - 1}]"
            )
        self._check_parallelism()
        if self.max_total_tokens < self.page_size:
            raise InvalidConfig(
                f"--max-total-tokens is {self.max_total_tokens}; it must be at least "
                f"--page-size, {self.page_size}"
            )
        if self.heartbeat_s > MAX_HEARTBEAT_S:
            raise InvalidConfig(
                f"--heartbeat-s is {self.heartbeat_s:g}; it must be at most {MAX_HEARTBEAT_S:g}, "
                "because a link without a report for twice as long is given up"
            )
        if self.watchdog_timeout_s < MIN_WATCHDOG_BEATS * self.heartbeat_s:
            raise InvalidConfig(
                f"--watchdog-timeout is {self.watchdog_timeout_s:g}; it must be at least "
                f"{MIN_WATCHDOG_BEATS} times --heartbeat-s, {self.heartbeat_s:g}"
            )
        if self.instance_key == "":
            raise InvalidConfig(f"{INSTANCE_KEY} is empty; an empty key would let everybody in")
        if not self.run_dir.is_dir():
            raise InvalidConfig(f"--run-dir {self.run_dir}: no such folder")

    def _check_followers(self) -> None:
        """They wait in a collective while nobody has anything to do."""
        if self.parallelism.attention_size > 1 and self.dist_timeout_s <= self.heartbeat_s:
            raise InvalidConfig(
                f"--dist-timeout is {self.dist_timeout_s:g}; where ranks share the attention of a "
                f"group it must be more than --heartbeat-s, {self.heartbeat_s:g}"
            )

    def _check_parallelism(self) -> None:
        if self.enable_dp_attention:
            if self.is_emulated:
                raise InvalidConfig(
                    f"--enable-dp-attention computes, and --device {EMULATED} does not; emulated "
                    "ranks wait for each other with --emulated-engine lockstep"
                )
            self.parallelism.check()
            self._check_followers()
            return
        together = {
            "--tp-size": self.tp_size if self.tp_size != 1 else None,
            "--tp-rank": self.tp_rank,
            "--enable-expert-parallel": self.enable_expert_parallel or None,
        }
        for flag, value in together.items():
            if value is not None:
                raise InvalidConfig(f"{flag} is {value}: only with --enable-dp-attention")


class _Parser(argparse.ArgumentParser):
    """Reports a bad flag as an exception instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise InvalidConfig(message)


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> WorkerConfig:
    """Return the configuration.  Raises InvalidConfig; --help prints and exits."""
    parser = _Parser(
        prog="python -m workers",
        description="One rank of levelhead: a DP group's scheduler, model and HTTP server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    _add_place(parser)
    _add_model(parser)
    _add_emulation(parser)
    _add_limits(parser)
    add_parallelism(parser)
    given = vars(parser.parse_args(arguments))
    given |= torchrun.place(given, environment)
    return WorkerConfig(**given, instance_key=environment.get(INSTANCE_KEY))


def _add_place(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("place in the instance").add_argument
    add("--instance", required=True, help="whose load segment is published")
    add("--instance-epoch", required=True, help="epoch of that segment", **_int(0))
    add("--run-dir", required=True, help="private folder for card and tokenizer", **_path("DIR"))
    add("--dp-rank", help="number of this DP group (default: as torchrun says)", **_int(0))
    add("--dp-size", required=True, help="number of DP groups", **_int(1))
    add("--num-front-doors", required=True, help="front-door slots in a report", **_int(1))
    add("--host", default="127.0.0.1", help="address of the HTTP server")
    add("--heartbeat-s", default=0.25, help="seconds between reports when idle", **_s(positive))
    add("--drain-timeout-s", default=30.0, help="for what runs at SIGTERM", **_s(not_negative))
    add(
        "--watchdog-timeout",
        default=300.0,
        dest="watchdog_timeout_s",
        help="seconds without a finished step after which /health says that the group hangs",
        **_s(positive),
    )
    levels = ("debug", "info", "warning", "error")
    add("--log-level", default="info", choices=levels, help="least severe message to log")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--model", required=True, help="a .gguf file or Hugging Face folder", **_path("PATH"))
    add("--served-model-name", required=True, metavar="NAME", help="what clients call it")
    add("--device", default="cpu", choices=("cpu", "cuda", EMULATED), help="where it runs")
    add("--dtype", default="auto", choices=dtypes, help="auto: bfloat16 where that is fast")
    add("--threads", default=1, help="threads of a forward pass on the CPU", **_int(1))
    add("--max-model-len", help="prompt and output together; if omitted, the model's", **_int(1))
    add("--seed", default=0, help="for requests without a seed", type=int, metavar="INT")


def _add_emulation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(f"with --device {EMULATED}").add_argument
    engines = ("lockstep", "independent")
    cost_help = "milliseconds of a step: base, for a KV token, a request, a computed prompt token"
    default = StepCost()
    add("--emulated-step-cost", default=default, help=cost_help, type=_cost, metavar="BASE,A,B,C")
    engine_help = "whether each step of all ranks ends with the slowest one's"
    add("--emulated-engine", default=engines[0], choices=engines, help=engine_help)
    log_help = "a JSON line for each step; independent ranks add .DP_RANK to its name"
    add("--emulated-step-log", help=log_help, **_path("FILE"))


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("limits").add_argument
    add("--max-running-requests", default=64, help="requests in a batch", **_int(1))
    add("--max-queued-requests", default=256, help="those that wait beside it", **_int(0))
    add("--max-total-tokens", default=32_768, help="tokens that the KV cache holds", **_int(1))
    add("--chunked-prefill-size", default=512, help="tokens that a step computes", **_int(1))
    add("--page-size", default=16, help="tokens in a KV page", **_int(1))
    policies = tuple(policy.value for policy in SchedulePolicy)
    policy_help = "who goes first: the longest cached prefix, or who came first"
    add("--schedule-policy", default="lpm", choices=policies, help=policy_help)
    cache_help = "compute every prompt anew"
    add("--disable-radix-cache", default=False, action="store_true", help=cache_help)
    overlap_help = "prepare no step while another is computed; on a CPU none is anyway"
    add("--disable-overlap-schedule", default=False, action="store_true", help=overlap_help)
    graph_help = "on a GPU, launch each operation of a decode batch anew"
    add("--disable-cuda-graph", default=False, action="store_true", help=graph_help)
    bs_help = "requests of the largest decode batch that is recorded; default: of any"
    add("--cuda-graph-max-bs", help=bs_help, **_int(1))
    add("--max-request-bytes", default=32 * 2**20, help="bytes of a request body", **_int(1))


def _int(least: int) -> dict[str, Any]:
    return {"type": at_least(least), "metavar": "INT"}


def _s(kind: Callable[[str], float]) -> dict[str, Any]:
    return {"type": kind, "metavar": "FLOAT"}


def _cost(text: str) -> StepCost:
    try:
        return StepCost.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _path(metavar: str) -> dict[str, Any]:
    return {"type": Path, "metavar": metavar}
