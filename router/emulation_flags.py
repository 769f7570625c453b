"""The flags of emulated ranks: real ranks whose steps take their time and compute nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balancer.simulation.settings import Pace
from router.errors import ConfigError
from router.simulate.flag_values import STEP, step_time

EMULATED = "emulated"


def add_emulation(parser: argparse.ArgumentParser) -> None:
    """What `levelhead simulate` calls --step-cost and --engine, and a log."""
    group = parser.add_argument_group(f"emulated ranks (--device {EMULATED})")
    cost = "milliseconds of a step: base, for a KV token, a request, a computed prompt token"
    group.add_argument(
        "--emulated-step-cost",
        type=step_time,
        metavar="BASE,A,B,C",
        help=f"{cost} (default: {STEP})",
    )
    group.add_argument(
        "--emulated-engine",
        choices=[pace.value for pace in Pace],
        help="lockstep: each step of all groups ends with the slowest one's "
        f"(default: {Pace.LOCKSTEP.value})",
    )
    group.add_argument(
        "--emulated-step-log",
        type=Path,
        metavar="FILE",
        help="append a JSON line for each step; independent ranks add .DP_RANK to the name",
    )


def check_emulation(given: Mapping[str, Any]) -> None:
    """Raise ConfigError if there is a flag of emulated ranks without such ranks."""
    if given["device"] == EMULATED:
        return
    for name in ("emulated_step_cost", "emulated_engine", "emulated_step_log"):
        if given[name] is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(flag, given[name], f"only with --device {EMULATED}")
