"""
What `levelhead simulate` was asked to do: its flags, each checked before anything runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from balancer.simulation.group import GroupLimits
from balancer.simulation.settings import Mode, Pace, Prefill, Settings
from balancer.simulation.synthetic import SYNTHETIC
from router import flag_values as values
from router.errors import ConfigError
from router.flags import FlagParser
from router.simulate import flag_values as own
from router.waiting_flags import add_waiting, waiting_rules

_MAX_GROUPS = 1024
_UNLIMITED = GroupLimits().max_queued_requests


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """The flags."""

    traces: tuple[str, ...]
    dp_sizes: tuple[int, ...]
    methods: tuple[str, ...]
    modes: tuple[Mode, ...]
    loads: tuple[float, ...]
    rate_scale: float | None
    """Instead of loads, if it is given."""
    seeds: int
    max_requests: int | None
    settings: Settings
    """For one group in the first mode; each run replaces both."""
    plot: Path | None
    as_json: bool


def parse_simulate(arguments: Sequence[str]) -> SimulateOptions:
    """Return the options.  Raises ConfigError; --help prints and exits."""
    given = simulate_parser().parse_args(arguments)
    if given.plot is not None:
        _check_plot(given.plot)
    if given.load is not None and given.rate_scale is not None:
        raise ConfigError("--rate-scale", given.rate_scale, "not together with --load")
    lowest = min(given.dp_size)
    for death in given.kill or ():
        if death.dp_rank >= lowest:
            raise ConfigError("--kill", death.dp_rank, f"there are groups 0 to {lowest - 1}")
    return SimulateOptions(
        traces=tuple(given.trace),
        dp_sizes=given.dp_size,
        methods=given.methods,
        modes=given.mode,
        loads=given.load or (0.7,),
        rate_scale=given.rate_scale,
        seeds=given.seeds,
        max_requests=given.max_requests,
        settings=_settings(given),
        plot=given.plot,
        as_json=given.json,
    )


def _settings(given: argparse.Namespace) -> Settings:
    queued = given.max_queued_requests
    limits = GroupLimits(
        kv_capacity_tokens=given.kv_capacity_tokens,
        page_size=given.page_size,
        max_running_requests=given.max_running_requests,
        max_queued_requests=_UNLIMITED if queued is None else queued,
        max_step_tokens=given.chunked_prefill_size,
        cache_tokens=given.prefix_cache_tokens,
    )
    if limits.kv_capacity_tokens < 2 * limits.page_size:
        raise ConfigError("--kv-capacity-tokens", limits.kv_capacity_tokens, "two pages or more")
    return Settings(
        num_groups=1,
        prefill=given.prefill,
        pace=given.engine,
        limits=limits,
        step=given.step_cost,
        report_delay_steps=given.report_delay_steps,
        report_loss=given.report_loss,
        max_load_age_s=given.max_load_age_s,
        deaths=tuple(given.kill or ()),
        waiting=waiting_rules(given.admission, given.prefill_align, given.max_hold_ms),
    )


def simulate_parser() -> FlagParser:
    """The parser of `levelhead simulate`."""
    parser = FlagParser(
        prog="levelhead simulate",
        description="Replay a trace through the methods, on simulated DP groups.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_what(parser)
    _add_output(parser)
    _add_engine(parser)
    add_waiting(parser, is_bounded=False)
    _add_reports(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is run: every combination")
    traces = f"a file (Mooncake, Azure, BurstGPT, --request-log), {' or '.join(SYNTHETIC)}"
    group.add_argument(
        "--trace", action="append", required=True, metavar="FILE", help=f"{traces}; may be repeated"
    )
    sizes = own.listed(values.integer(1, _MAX_GROUPS))
    group.add_argument("--dp-size", type=sizes, default="8", metavar="N,N", help="DP groups")
    some = f"{own.ALL}, or some of them"
    group.add_argument("--methods", type=own.methods, default=own.ALL, metavar="M,M", help=some)
    mode = "decode: a pool that prompts come to with their KV; unified: groups compute prompts too"
    modes = own.listed(own.member(Mode))
    group.add_argument("--mode", type=modes, default="decode", metavar="MODE", help=mode)
    load = "part of the KV capacity in use on average if the groups are level (default: 0.7)"
    loads = own.listed(own.number(0.01, 1))
    group.add_argument("--load", type=loads, metavar="X,X", help=load)
    scale = "arrivals so many times as fast as in the trace, instead of --load"
    scales = own.number(1e-6, 1e6)
    group.add_argument("--rate-scale", type=scales, metavar="X", help=scale)
    seeds = "runs of each combination, with seeds 0, 1, ..."
    group.add_argument("--seeds", type=values.integer(1), default=1, metavar="N", help=seeds)
    most = "of each trace the first so many (default: all)"
    group.add_argument("--max-requests", type=values.integer(1), metavar="N", help=most)


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    group.add_argument("--plot", type=Path, metavar="FILE.png", help="a picture too")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    limits = GroupLimits()
    group = parser.add_argument_group("engine of each group")
    engine = "lockstep: a step of all ends with the slowest group's; independent: nobody waits"
    pace = own.member(Pace)
    group.add_argument("--engine", type=pace, default="lockstep", metavar="PACE", help=engine)
    alone = "whether a step that computes prompts decodes too: mixed, or not: first"
    prefill = own.member(Prefill)
    group.add_argument("--prefill", type=prefill, default="mixed", metavar="HOW", help=alone)
    cost = "ms of a step: base, and for each KV token, request and prefilled token of a group"
    group.add_argument(
        "--step-cost", type=own.step_time, default=own.STEP, metavar="B,A,R,C", help=cost
    )
    for flag, lowest, default, meaning in (
        ("--kv-capacity-tokens", 1, limits.kv_capacity_tokens, "of its KV cache"),
        ("--page-size", 1, limits.page_size, "in a KV page"),
        ("--prefix-cache-tokens", 0, limits.cache_tokens, "of prompts that it keeps; 0: none"),
        ("--chunked-prefill-size", 1, limits.max_step_tokens, "that a step computes at most"),
    ):
        tokens = values.integer(lowest)
        group.add_argument(flag, type=tokens, default=default, metavar="TOKENS", help=meaning)
    batch, running = "requests in a batch", limits.max_running_requests
    group.add_argument(
        "--max-running-requests", type=values.integer(1), default=running, metavar="N", help=batch
    )
    queue = "requests that wait beside a full batch (default: any number)"
    group.add_argument("--max-queued-requests", type=values.integer(0), metavar="N", help=queue)


def _add_reports(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reports and faults")
    delay, steps = "steps until a group's report is seen", values.integer(0)
    group.add_argument("--report-delay-steps", type=steps, default=1, metavar="N", help=delay)
    loss, share = "part of the reports that is lost", own.number(0, 1)
    group.add_argument("--report-loss", type=share, default=0.0, metavar="X", help=loss)
    group.add_argument(
        "--max-load-age",
        dest="max_load_age_s",
        type=values.seconds(0.001),
        default=2.0,
        metavar="S",
        help="age beyond which a group's figures count for nothing",
    )
    kill = "that group dies after so many seconds and is back so many later (10); may be repeated"
    group.add_argument("--kill", action="append", type=own.death, metavar="RANK@S[+S]", help=kill)


def _check_plot(path: Path) -> None:
    """Before anything runs, not after."""
    if path.suffix != ".png" or not path.parent.is_dir():
        raise ConfigError("--plot", path, "allowed is a file named .png in a folder that exists")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot", path, "needs matplotlib, which the extra `bench` installs")
