"""
The runs that were asked for, one after the other.

`load` of a run is the part of the KV capacity that would be used on average if the
groups were level: as asked for, or, with --rate-scale, what follows from the rate;
None if that is more than the groups can ever keep up with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from balancer.simulation.figures import RunFigures
from balancer.simulation.settings import Mode, Settings
from balancer.simulation.simulation import simulate
from balancer.simulation.step_time import Means, load_of_rate, rate_for_load
from balancer.simulation.synthetic import SYNTHETIC, synthetic
from balancer.simulation.traffic import Traffic
from router.errors import ConfigError
from router.simulate.options import SimulateOptions
from router.simulate.trace_file import read_trace

_DIGITS = 6


class Plan(NamedTuple):
    """One run, before it is made."""

    traffic: Traffic
    settings: Settings
    method: str
    seed: int
    load: float | None
    rate_scale: float

    def __str__(self) -> str:
        settings = self.settings
        return f"{self.traffic.name} {settings.mode.value} x{settings.num_groups} {self.method}"


class Run(NamedTuple):
    """One run, made."""

    plan: Plan
    figures: RunFigures

    def as_dict(self) -> dict[str, Any]:
        """What is told of it."""
        plan = self.plan
        told = {
            "trace": plan.traffic.name,
            "mode": plan.settings.mode.value,
            "dp_size": plan.settings.num_groups,
            "method": plan.method,
            "seed": plan.seed,
            "load": plan.load,
        } | self.figures._asdict()
        return {
            name: round(value, _DIGITS) if isinstance(value, float) else value
            for name, value in told.items()
        }


def plans(options: SimulateOptions, tell: Callable[[str], None]) -> list[Plan]:
    """
    Every combination; `tell` hears what is left out of a trace.

    Raises TraceError and ConfigError.
    """
    made = []
    sources = {name: _source(name, options, tell) for name in options.traces}
    for name, num_groups, mode in itertools.product(sources, options.dp_sizes, options.modes):
        settings = replace(options.settings, num_groups=num_groups, mode=mode)
        for traffic, load, rate_scale in _paced(sources[name], settings, options):
            made += [
                Plan(traffic, settings, method, seed, load, rate_scale)
                for method in options.methods
                for seed in range(options.seeds)
            ]
    return made


def run(plan: Plan, on_progress: Callable[[int], None]) -> Run:
    """Make a run; `on_progress` hears how many requests have ended."""
    figures = simulate(
        plan.traffic, plan.settings, plan.method, plan.seed, plan.rate_scale, on_progress
    )
    return Run(plan, figures)


_Source = Callable[[int, float], Traffic]
"""Makes the traffic for a number of groups and the tokens that each should hold."""


def _source(name: str, options: SimulateOptions, tell: Callable[[str], None]) -> _Source:
    most = options.max_requests
    if name in SYNTHETIC:
        return lambda num_groups, load_tokens: synthetic(name, num_groups, load_tokens).first(most)
    traffic = read_trace(Path(name), tell).first(most)
    return lambda num_groups, load_tokens: traffic


def _paced(
    source: _Source, settings: Settings, options: SimulateOptions
) -> Iterator[tuple[Traffic, float | None, float]]:
    """Traffic, load and rate scale for each of the loads, or for the rate scale."""
    capacity, num_groups = settings.limits.kv_capacity_tokens, settings.num_groups
    for load in options.loads:
        traffic = source(num_groups, load * capacity)
        if traffic.num_clients is not None:
            if options.rate_scale is not None:
                why = f"{traffic.name} comes as fast as it is answered; give --load"
                raise ConfigError("--rate-scale", options.rate_scale, why)
            yield traffic, load, 1.0
            continue
        means = Means.of(traffic, computes_prompts=settings.mode is Mode.UNIFIED)
        own_rate = len(traffic.requests) / (traffic.span_s or 1.0)
        if options.rate_scale is None:
            rate = rate_for_load(means, settings.step, load * capacity, num_groups)
            yield traffic, load, rate / own_rate
            continue
        rate = own_rate * options.rate_scale
        held = load_of_rate(means, settings.step, rate, num_groups)
        yield traffic, None if held == float("inf") else held / capacity, options.rate_scale
        return
