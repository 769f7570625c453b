"""
How level the groups stay: real workers, the default model, one skewed load, two methods.

    python -m benchmarks.bench_level --quick
    python -m benchmarks.bench_level --methods round_robin,minimum_tokens --plot docs/level.png

For each method an instance is started with `levelhead serve`, and the same
seeded requests arrive at the same times: most are short, one in eight has a
long prompt and a long answer.  Ten times a second the loads are read.  The
methods take turns, `--repeats` times round.

Read `max_over_mean`: the integral over time of the largest group's holding +
in-flight tokens, over that of the mean; 1 is level, and 2 is the worst that two
groups can be.  With a barrier in every step it is what attention takes longer
than it had to.  Latency is the client's, through the front door.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from benchmarks.instance import served
from benchmarks.machine import machine_facts

_LOOK_PERIOD_S = 0.1
_LONG_SHARE = 0.125
_WORDS = ("level", "spirit", "bubble", "wall", "shelf", "beam", "floor", "line")


@dataclass(frozen=True)
class Ask:
    """One request of the load."""

    at_s: float
    prompt_words: int
    max_tokens: int


@dataclass
class Run:
    """What one method did with the load."""

    method: str
    times_s: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    """Holding + in-flight tokens by group, at each of times_s."""
    ttft_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    failed: int = 0

    def totals(self) -> tuple[int, float]:
        """Largest and mean of the groups' tokens, each summed over all looks."""
        return sum(map(max, self.tokens)), sum(map(statistics.fmean, self.tokens))


@dataclass(frozen=True)
class Row:
    """Figures of one method over all repeats."""

    method: str
    requests: int
    failed: int
    max_over_mean: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float


def skewed_load(rate: float, seconds: float, seed: int) -> list[Ask]:
    """Poisson arrivals; one in eight is long."""
    rng, at_s, asks = random.Random(seed), 0.0, []
    while (at_s := at_s + rng.expovariate(rate)) < seconds:
        is_long = rng.random() < _LONG_SHARE
        words, tokens = (250, 160) if is_long else (20, 20)
        asks.append(Ask(at_s, rng.randint(words, 2 * words), rng.randint(tokens, 2 * tokens)))
    return asks


def measure(method: str, asks: Sequence[Ask], dp_size: int) -> Run:
    """Start an instance, drive it, stop it."""
    with served("--dp-size", str(dp_size), "--load-balance-method", method) as url:
        return asyncio.run(_drive(url, method, asks))


async def _drive(url: str, method: str, asks: Sequence[Ask]) -> Run:
    run = Run(method)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        began_s = time.monotonic()
        asking = (_ask(client, run, ask, began_s) for ask in asks)
        await asyncio.gather(_watch(client, run, began_s, asks[-1].at_s), *asking)
    return run


async def _watch(client: httpx.AsyncClient, run: Run, began_s: float, last_s: float) -> None:
    """Look until the last request arrives: what is left then only drains."""
    while time.monotonic() < began_s + last_s:
        loads = (await client.get("/v1/loads")).json()["loads"]
        run.times_s.append(time.monotonic() - began_s)
        run.tokens.append([load["holding_tokens"] + load["in_flight_tokens"] for load in loads])
        await asyncio.sleep(_LOOK_PERIOD_S)


async def _ask(client: httpx.AsyncClient, run: Run, ask: Ask, began_s: float) -> None:
    await asyncio.sleep(max(0.0, began_s + ask.at_s - time.monotonic()))
    words = random.Random(ask.at_s).choices(_WORDS, k=ask.prompt_words)
    body = {
        "model": "SmolLM2-135M-Instruct",
        "prompt": " ".join(words),
        "max_tokens": ask.max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    last_s, first = time.monotonic(), True
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        run.failed += answer.status_code != httpx.codes.OK
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now_s = time.monotonic()
            (run.ttft_s if first else run.gaps_s).append(now_s - last_s)
            last_s, first = now_s, False


def make_row(method: str, runs: Sequence[Run]) -> Row:
    """Pool the runs of a method."""
    largest, mean = (sum(totals) for totals in zip(*(run.totals() for run in runs), strict=True))
    ttft_s = [value for run in runs for value in run.ttft_s]
    gaps_s = [value for run in runs for value in run.gaps_s]
    return Row(
        method=method,
        requests=len(ttft_s),
        failed=sum(run.failed for run in runs),
        max_over_mean=round(largest / mean, 3),
        ttft_p50_ms=round(1e3 * _quantile(ttft_s, 0.5), 1),
        ttft_p99_ms=round(1e3 * _quantile(ttft_s, 0.99), 1),
        itl_p50_ms=round(1e3 * _quantile(gaps_s, 0.5), 1),
        itl_p99_ms=round(1e3 * _quantile(gaps_s, 0.99), 1),
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def plot(runs: Sequence[Run], path: Path) -> None:
    """One panel a method: tokens of each group over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(runs), 1, figsize=(9, 2.3 * len(runs)), sharex=True, sharey=True, squeeze=False
    )
    for axis, run in zip(axes[:, 0], runs, strict=True):
        for dp_rank, tokens in enumerate(zip(*run.tokens, strict=True)):
            axis.plot(run.times_s, tokens, label=f"DP group {dp_rank}", linewidth=1.4)
        largest, mean = run.totals()
        axis.set_title(f"{run.method}: max / mean {largest / mean:.2f}", loc="left", fontsize=10)
        axis.set_ylabel("tokens")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, ncols=len(runs[0].tokens[0]), loc="upper left")
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, and plot if told to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_level")
    parser.add_argument("--quick", action="store_true", help="one short repeat")
    parser.add_argument("--methods", default="round_robin,least_requests,minimum_tokens")
    parser.add_argument("--dp-size", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.5, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="picture of the first repeat")
    arguments = parser.parse_args()
    repeats, seconds = (1, 15.0) if arguments.quick else (arguments.repeats, arguments.seconds)
    methods = arguments.methods.split(",")
    runs: dict[str, list[Run]] = {method: [] for method in methods}
    for repeat in range(repeats):
        asks = skewed_load(arguments.rate, seconds, arguments.seed + repeat)
        for method in methods:
            runs[method].append(measure(method, asks, arguments.dp_size))
    rows = [asdict(make_row(method, runs[method])) for method in methods]
    print("  ".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>14}" for value in row.values()))
    if arguments.plot:
        plot([runs[method][0] for method in methods], arguments.plot)
    print(json.dumps({"rows": rows, "machine": machine_facts(), "repeats": repeats}))


if __name__ == "__main__":
    main()
