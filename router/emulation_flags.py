"""The flags of emulated ranks: real ranks whose steps take their time and compute nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balancer.simulation.settings import Pace
from balancer.simulation.step_time import StepTime
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
    """Raise ConfigError if a flag of emulated ranks has no such ranks, or cannot work."""
    if given["device"] == EMULATED:
        _check_cost(given["emulated_step_cost"], given["watchdog_timeout_s"])
        _check_log(given["emulated_step_log"])
        return
    for name in ("emulated_step_cost", "emulated_engine", "emulated_step_log"):
        if given[name] is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(flag, given[name], f"only with --device {EMULATED}")


def _check_cost(cost: StepTime | None, watchdog_timeout_s: float) -> None:
    """A group that finishes no step for so long is started again."""
    if cost is not None and cost.base_ms >= 1e3 * watchdog_timeout_s:
        allowed = f"a step has to end within --watchdog-timeout, {watchdog_timeout_s:g} s"
        raise ConfigError("--emulated-step-cost", ",".join(f"{ms:g}" for ms in cost), allowed)


def _check_log(log: Path | None) -> None:
    if log is not None and not log.absolute().parent.is_dir():
        raise ConfigError("--emulated-step-log", log, "a file in a folder that exists")
