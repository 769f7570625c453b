"""
The simulator beside real torch workers: two groups, each at its own pace (`bench_balance --real`).

The trace is scaled down, because two cores compute a few hundred prompt tokens a second:
prompts and pages are a 64th as long (`--prompt-parts`: 512 tokens become 8, and the workers
have pages of 8), answers as `--output-parts` says; arrivals are a given number a second.  The
simulator has `--engine independent --mode unified`, and the step cost that the front door
fitted to these very steps (`/metrics`).  The fit has no base; that is the median of what is
left of the steps that computed no prompt.  A method that weighs no cost fits none, and has that of
the one before: name one first that does.

Compared is the mean over time of the largest over the mean KV tokens, live from `/v1/loads`
twenty times a second.  Not the same on both sides: live figures are as old as the last report,
and count what a chunked prompt has computed so far, the simulator's only decoding requests; a
live step is no straight line of tokens and requests; all share the machine with the client.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import httpx
import uvloop

from balancer.simulation.group import GroupLimits
from balancer.simulation.settings import Mode, Pace, Settings
from balancer.simulation.simulation import simulate
from balancer.simulation.step_time import StepTime
from balancer.simulation.traffic import TracedRequest, Traffic
from benchmarks.balance_traffic import Driven, body_of, drive
from benchmarks.instance import served

NUM_GROUPS = 2
_PAGE_SIZE = 16
_WARM_UP = 0.05
_LOOK_S = 0.05
_LEAST_BASE_MS = 1.0
_MAX_PROMPT, _CAPACITY, _CHUNK = 4096, 32_768, 256


@dataclass(frozen=True)
class RealPair:
    """A method, lived through and simulated; base_ms to c_ms: of the step, as it was fitted."""

    method: str
    seed: int
    live_kv: float
    sim_kv: float
    live_over_sim: float
    base_ms: float
    a_ms: float
    b_ms: float
    c_ms: float
    r_squared: float
    num_looks: int
    failed: int

    @property
    def step(self) -> StepTime:
        """The step cost that both sides had."""
        return StepTime(self.base_ms, self.a_ms, self.b_ms, self.c_ms)


@dataclass(frozen=True)
class Look:
    """What the groups reported at one time."""

    at_s: float
    loads: list[dict[str, Any]]

    @property
    def kv_ratio(self) -> float | None:
        """Largest over mean KV tokens; None if there are none."""
        kv = [load["num_used_tokens"] or 0 for load in self.loads]
        return max(kv) * len(kv) / sum(kv) if any(kv) else None


class Scale(NamedTuple):
    """How a trace is brought down to what a small machine can do.  rate: requests a second."""

    prompt_parts: int
    output_parts: int
    rate: float

    def shorten(self, traffic: Traffic) -> Traffic:
        """The same traffic with short prompts, pages and answers."""
        page_size = traffic.page_size // self.prompt_parts
        requests = [self._short(request, page_size) for request in traffic.requests]
        return replace(traffic, requests=requests, page_size=page_size)

    def _short(self, request: TracedRequest, page_size: int) -> TracedRequest:
        prompt = min(_MAX_PROMPT, max(1, request.prompt_tokens // self.prompt_parts))
        pages = request.page_digests[: prompt // page_size] if page_size else ()
        output = max(2, request.output_tokens // self.output_parts)
        return TracedRequest(request.arrival_s, prompt, output, pages)


def measure_real(
    traffic: Traffic, method: str, seed: int, rate: float, known: StepTime | None
) -> RealPair:
    """Live, then simulated with what was fitted; known: a step cost, where nothing is."""
    own_rate = len(traffic.requests) / (traffic.span_s or 1.0)
    rate_scale = rate / own_rate
    bodies = [body_of(each, traffic.page_size, n) for n, each in enumerate(traffic.requests)]
    flags = {"--dp-size": NUM_GROUPS, "--load-balance-method": method, "--seed": seed}
    flags |= {"--max-total-tokens": _CAPACITY, "--chunked-prefill-size": _CHUNK}
    page_size = traffic.page_size or _PAGE_SIZE
    flags |= {"--page-size": page_size, "--log-level": "error", "--drain-timeout-s": 1}
    with (
        served(*(str(word) for pair in flags.items() for word in pair)) as url,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        looks, driven = runner.run(_drive(url, traffic, bodies, rate_scale, seed))
        metrics = httpx.get(f"{url}/metrics").text
    is_fitted = bool(_metric(metrics, "levelhead_cost_is_fitted"))
    step = known if known is not None and not is_fitted else _fitted(metrics, looks)
    r_squared = _metric(metrics, "levelhead_cost_fit_r_squared")
    window_s = driven.window_s(len(bodies), _WARM_UP)
    ratios = [look.kv_ratio for look in looks if window_s[0] <= look.at_s < window_s[1]]
    there = [ratio for ratio in ratios if ratio is not None]
    live_kv = statistics.fmean(there)
    sim_kv = simulate(
        traffic, _settings(step, page_size), method, seed, rate_scale
    ).kv_max_over_mean
    assert sim_kv is not None
    failed = len(driven.failures)
    ratio = live_kv / sim_kv
    return RealPair(method, seed, live_kv, sim_kv, ratio, *step, r_squared, len(there), failed)


async def _drive(
    url: str, traffic: Traffic, bodies: Sequence[bytes], rate_scale: float, seed: int
) -> tuple[list[Look], Driven]:
    looks: list[Look] = []
    watching = asyncio.create_task(_watch(url, looks))
    try:
        port = int(url.rpartition(":")[2])
        return looks, await drive(port, traffic, bodies, rate_scale, seed)
    finally:
        watching.cancel()


async def _watch(url: str, looks: list[Look]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while True:
            loads = (await client.get("/v1/loads")).json()["loads"]
            looks.append(Look(time.monotonic(), loads))
            await asyncio.sleep(_LOOK_S)


def _fitted(metrics: str, looks: Sequence[Look]) -> StepTime:
    """The step cost in use at the end."""
    a, b, c = (
        1e3 * _metric(metrics, f"levelhead_cost_per_{name}_seconds")
        for name in ("token", "request", "prefill_token")
    )
    left = [
        load["step_time_ms"] - a * load["num_used_tokens"] - b * load["num_running_reqs"]
        for look in looks
        for load in look.loads
        if load["num_running_reqs"] and not load["num_waiting_uncached_tokens"]
    ]
    base_ms = max(_LEAST_BASE_MS, statistics.median(left)) if left else _LEAST_BASE_MS
    return StepTime(base_ms, a, b, c)


def _metric(metrics: str, name: str) -> float:
    found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)
    if found is None:
        raise ValueError(f"{name} is no metric")
    return float(found[1])


def _settings(step: StepTime, page_size: int) -> Settings:
    limits = GroupLimits(
        kv_capacity_tokens=_CAPACITY,
        page_size=page_size,
        max_running_requests=64,
        max_step_tokens=_CHUNK,
        cache_tokens=_CAPACITY // 2,
    )
    return Settings(
        num_groups=NUM_GROUPS,
        mode=Mode.UNIFIED,
        pace=Pace.INDEPENDENT,
        limits=limits,
        step=step,
        report_delay_steps=0,
    )


def real_table(pairs: Sequence[RealPair]) -> str:
    """A line for each run."""
    lines = [
        f"{'method':16} {'seed':>4}  {'KV live':>7} {'sim':>7} {'live/sim':>8}  "
        f"{'base ms':>7} {'a us':>7} {'b ms':>6} {'c ms':>6} {'R2':>5}"
    ]
    lines += [
        f"{one.method:16} {one.seed:4}  {one.live_kv:7.3f} {one.sim_kv:7.3f} "
        f"{one.live_over_sim:8.3f}  {one.base_ms:7.1f} {1e3 * one.a_ms:7.2f} {one.b_ms:6.2f} "
        f"{one.c_ms:6.2f} {one.r_squared:5.2f}"
        for one in pairs
    ]
    return "\n".join(lines)
