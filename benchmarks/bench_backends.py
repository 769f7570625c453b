"""
One skewed load on an engine by itself, and through the front door before it: side by side.

Requests come at random times (open loop): most have a short prompt and a short output, one in
seven has a long prompt and four times the output.  So where they land matters, and how many
there are on a rank says little of what they cost.  Each named URL gets the same requests at the
same times, in turns, seed after seed, in an order that alternates.

    TTFT   sent to first event        ITL   between the events of a stream

    levelhead serve --backend http://127.0.0.1:8555 --port 8000
    python -m benchmarks.bench_backends --url engine=http://127.0.0.1:8555 \
        --url levelhead=http://127.0.0.1:8000

    python -m tests.peers.bench --engine vllm      starts both, for a quiet machine

How to read it: p99 of both are what skew makes bad.  Ratios are of the second URL to the
first, by seed, with their 95 % interval (benchmarks.paired), and of the requests of all seeds
together: p99 of one seed's requests is hardly more than the longest.  With `--cancelled 0.25`
so many clients leave after their third event; the engine's own count of running requests
must then be zero at the end, which is for the reader to look up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

from benchmarks.paired import LEAST_PAIRS, ratio_of

_WORDS = ("sea", "level", "spirit", "bubble")
_LONG_SHARE = 0.15
_LONG, _SHORT = (900, 96), (40, 24)  # words of the prompt, tokens of the output
_EVENTS_BEFORE_LEAVING = 3


class Planned(NamedTuple):
    """One request: when, what, and whether its client leaves."""

    at_s: float
    prompt: str
    max_tokens: int
    leaves: bool


@dataclass
class Seen:
    """What the clients of one run saw."""

    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    num_errors: int = 0


def plan(num_requests: int, rate: float, cancelled: float, seed: int) -> list[Planned]:
    """The requests of a seed, in order."""
    rng, at_s, planned = random.Random(seed), 0.0, []
    for _ in range(num_requests):
        at_s += rng.expovariate(rate)
        num_words, max_tokens = _LONG if rng.random() < _LONG_SHARE else _SHORT
        prompt = " ".join(rng.choice(_WORDS) for _ in range(num_words))
        planned.append(Planned(at_s, prompt, max_tokens, rng.random() < cancelled))
    return planned


async def run(url: str, model: str, planned: list[Planned]) -> Seen:
    """Send them all, and wait for every end."""
    seen = Seen()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        await asyncio.gather(*(_send(client, model, each, seen) for each in planned))
    return seen


async def _send(client: httpx.AsyncClient, model: str, planned: Planned, seen: Seen) -> None:
    await asyncio.sleep(planned.at_s)
    body = {"model": model, "prompt": planned.prompt, "max_tokens": planned.max_tokens}
    body |= {"stream": True, "temperature": 0, "ignore_eos": True}
    last_s, num_events, is_whole = time.perf_counter(), 0, False
    async with client.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if '"error"' in line:
                break
            now_s = time.perf_counter()
            (seen.itl_s if num_events else seen.ttft_s).append(now_s - last_s)
            last_s, num_events = now_s, num_events + 1
            is_whole = is_whole or '"finish_reason":"length"' in line
            if planned.leaves and num_events == _EVENTS_BEFORE_LEAVING:
                return
    seen.num_errors += not is_whole


def percentile_ms(values: list[float], share: float) -> float:
    """The value that so many do not exceed, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 if ordered else 0.0


FIGURES = tuple(f"{name}_p{share}_ms" for name in ("ttft", "itl") for share in (50, 99))


def figures(name: str, seed: int | str, seen: Seen) -> dict[str, object]:
    """One line of the table."""
    told: dict[str, object] = {"url": name, "seed": seed, "n": len(seen.ttft_s)}
    told["errors"] = seen.num_errors
    for figure, values in (("ttft", seen.ttft_s), ("itl", seen.itl_s)):
        for share in (50, 99):
            told[f"{figure}_p{share}_ms"] = round(percentile_ms(values, share / 100), 1)
    return told


def together(runs: Sequence[Seen]) -> Seen:
    """All of them as one."""
    return Seen(
        [value for seen in runs for value in seen.ttft_s],
        [value for seen in runs for value in seen.itl_s],
        sum(seen.num_errors for seen in runs),
    )


def ratios(first: Sequence[Seen], second: Sequence[Seen]) -> dict[str, dict[str, object]]:
    """By figure: of all requests together, and of pairs of runs with the interval."""
    told: dict[str, dict[str, object]] = {}
    runs = [[figures("", 0, seen) for seen in side] for side in (first, second)]
    whole = [figures("", 0, together(side)) for side in (first, second)]
    for figure in FIGURES:
        values = [[float(str(run[figure])) for run in side] for side in runs]
        of_all = [float(str(side[figure])) for side in whole]
        told[figure] = {"all": round(of_all[1] / of_all[0], 3) if of_all[0] else None}
        ratio = ratio_of(*values)
        if ratio is not None:
            told[figure] |= {key: round(value, 3) for key, value in ratio._asdict().items()}
            told[figure]["verdict"] = ratio.verdict
    return told


def parser() -> argparse.ArgumentParser:
    """Flags that say how much."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    flags.add_argument("--model", default="SmolLM2-135M-Instruct")
    flags.add_argument("--requests", type=int, default=50, help="of each seed")
    flags.add_argument("--rate", type=float, default=2.0, help="requests a second")
    flags.add_argument("--cancelled", type=float, default=0.0, help="share of clients that leave")
    flags.add_argument("--seeds", default="1,2,3", metavar="N,N")
    return flags


def measure(urls: Sequence[tuple[str, str]], arguments: argparse.Namespace) -> None:
    """Run, print each line as it comes, then ratios, and all of them as JSON."""
    for _, url in urls:  # first passes compile, and fill caches
        asyncio.run(run(url, arguments.model, plan(8, 4.0, 0.0, 0)))
    told, seen = [], {name: list[Seen]() for name, _ in urls}
    for number, seed in enumerate(map(int, arguments.seeds.split(","))):
        planned = plan(arguments.requests, arguments.rate, arguments.cancelled, seed)
        for name, url in urls[:: -1 if number % 2 else 1]:
            seen[name].append(asyncio.run(run(url, arguments.model, planned)))
            told.append(figures(name, seed, seen[name][-1]))
            _print(told[-1])
    for name, runs in seen.items():
        told.append(figures(name, "all", together(runs)))
        _print(told[-1])
    against = {}
    if len(urls) > 1:
        (first, _), *others = urls
        against = {name: ratios(seen[first], seen[name]) for name, _ in others}
        for name, by_figure in against.items():
            for figure, ratio in by_figure.items():
                _print({"ratio": f"{name}/{first}", "of": figure} | ratio)
        if len(seen[first]) < LEAST_PAIRS:
            print(f"no intervals: they take {LEAST_PAIRS} seeds or more")
    print(json.dumps({"bench": "backends", "runs": told, "ratios": against}))


def _print(line: Mapping[str, object]) -> None:
    print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)


def main() -> None:
    """Of servers that run."""
    flags = parser()
    flags.add_argument("--url", action="append", required=True, metavar="NAME=URL")
    arguments = flags.parse_args()
    measure([(name, url) for name, _, url in (u.partition("=") for u in arguments.url)], arguments)


if __name__ == "__main__":
    main()
