"""The flags of DP groups: how many there are, and whether their ranks compute together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from router import flag_values as values
from router.emulation_flags import EMULATED
from router.errors import ConfigError


class Launcher(StrEnum):
    """Who starts the ranks."""

    PROCESSES = "processes"
    TORCHRUN = "torchrun"


_MAX_GROUPS = 1024
_MAX_RANKS = 1024
_LEAST_TIMEOUT_S = 1


def add_parallelism(parser: argparse.ArgumentParser) -> None:
    """Spelt as in SGLang, of which `--enable-expert-parallel` is vLLM's word."""
    group = parser.add_argument_group("data parallelism")
    group.add_argument(
        "--dp-size",
        "--data-parallel-size",
        type=values.integer(1, _MAX_GROUPS),
        default=2,
        metavar="N",
        help="number of DP groups",
    )
    group.add_argument(
        "--enable-dp-attention",
        action="store_true",
        help="attention per DP group, the rest of the model sharded over all ranks, which "
        "compute every step together",
    )
    group.add_argument(
        "--tp-size",
        "--tensor-parallel-size",
        type=values.integer(1, _MAX_RANKS),
        metavar="N",
        help="with --enable-dp-attention, ranks in all: a multiple of --dp-size, whose groups "
        "share them out (default: --dp-size)",
    )
    _add_together(group)
    group.add_argument(
        "--launcher",
        type=Launcher,
        choices=list(Launcher),
        default=Launcher.PROCESSES,
        help="who starts the ranks: this program, or torchrun, whose ranks end together",
    )


def _add_together(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--enable-expert-parallel",
        action="store_true",
        help="with --enable-dp-attention, each rank has some experts, not a part of all",
    )
    group.add_argument(
        "--dist-timeout",
        type=values.seconds(_LEAST_TIMEOUT_S),
        default=120.0,
        metavar="S",
        dest="dist_timeout_s",
        help="with --enable-dp-attention, a rank that the others wait for so long counts as lost, "
        "and all are started again",
    )


def check_parallelism(given: dict[str, Any]) -> None:
    """Raise ConfigError if these do not go together; fill in what follows from others."""
    dp_size, tp_size = given["dp_size"], given["tp_size"]
    if given["launcher"] is Launcher.TORCHRUN and sys.platform != "linux":
        allowed = "needs Linux, where ranks end with a torchrun that is killed"
        raise ConfigError("--launcher", Launcher.TORCHRUN, allowed)
    if not given["enable_dp_attention"]:
        _refuse_alone(given)
        given["tp_size"] = 1
        return
    if given["device"] == EMULATED:
        allowed = "ranks that compute; emulated ones have --emulated-engine lockstep"
        raise ConfigError("--enable-dp-attention with --device", EMULATED, allowed)
    given["tp_size"] = dp_size if tp_size is None else tp_size
    if given["tp_size"] % dp_size:
        raise ConfigError("--tp-size", tp_size, f"a multiple of --dp-size, {dp_size}")


def _refuse_alone(given: Mapping[str, Any]) -> None:
    if given["tp_size"] not in (None, 1):
        raise ConfigError("--tp-size", given["tp_size"], "1, or --enable-dp-attention as well")
    if given["enable_expert_parallel"]:
        raise ConfigError("--enable-expert-parallel", "on", "only with --enable-dp-attention")
