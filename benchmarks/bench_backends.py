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

How to read it: p99 of both are what skew makes bad.  With `--cancelled 0.25` so many clients
leave after their third event; the engine's own count of running requests must then be zero
at the end, which is for the reader to look up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

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


def figures(name: str, seed: int, seen: Seen) -> dict[str, object]:
    """One line of the table."""
    told: dict[str, object] = {"url": name, "seed": seed, "n": len(seen.ttft_s)}
    told["errors"] = seen.num_errors
    for figure, values in (("ttft", seen.ttft_s), ("itl", seen.itl_s)):
        for share in (0.5, 0.99):
            told[f"{figure}_p{share * 100:g}_ms"] = round(percentile_ms(values, share))
    return told


def main() -> None:
    """Run, print each line as it comes, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", action="append", required=True, metavar="NAME=URL")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--cancelled", type=float, default=0.0, help="share of clients that leave")
    parser.add_argument("--seeds", default="1,2", metavar="N,N")
    arguments = parser.parse_args()
    told = []
    for number, seed in enumerate(map(int, arguments.seeds.split(","))):
        planned = plan(arguments.requests, arguments.rate, arguments.cancelled, seed)
        for named in arguments.url[:: -1 if number % 2 else 1]:
            name, _, url = named.partition("=")
            told.append(figures(name, seed, asyncio.run(run(url, arguments.model, planned))))
            print("  ".join(f"{key} {value}" for key, value in told[-1].items()), flush=True)
    print(json.dumps({"bench": "backends", "runs": told}))


if __name__ == "__main__":
    main()
