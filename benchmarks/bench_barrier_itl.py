"""
What decoding streams feel of other clients' long prompts, where groups step together.

    python -m benchmarks.bench_barrier_itl --quick
    python -m benchmarks.bench_barrier_itl --chunks 64,256 --seconds 60 --repeats 3

An instance with DP attention (`levelhead serve --enable-dp-attention`, a rank a group) serves
some clients that decode, one stream after the other, and a long prompt now and then, at times
that are the same in all runs (Poisson, seeded).  Every step takes as long as its slowest
group's, so a prompt stalls all streams, whichever group has it: what can be chosen is how large
the pieces are in which it is computed, and whether groups get prompts together or one after
the other.

    apart          no balancing: group 0 gets every prompt, the others decode
    METHOD         the front door's choice for all requests
    METHOD+hold    the same, and prompts are released to all groups together

Instances take turns: each way at each chunk size, `--repeats` times round.  Gaps are between pieces
of decoding streams while prompts come; `idle` is the share of step time that a group waits
for others in collectives, by the instance's metrics, of the group that waits most and on
average; `max/mean` is of tokens per step.

The last line on stdout is one JSON object; before it is a table in markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, NamedTuple

import httpx

from benchmarks.barrier_rows import Row, Run, make_row, table
from benchmarks.barrier_share import Scrape, Share
from benchmarks.instance import served
from benchmarks.machine import machine_facts

APART = "apart"
_HOLD = "+hold"
_PIN = "x-data-parallel-rank"


class Traffic(NamedTuple):
    """What comes.  rate: long prompts a second, while the window lasts."""

    decoders: int
    decoder_prompt: int
    decoder_outputs: int
    prompt_tokens: int
    prompt_outputs: int
    rate: float
    seconds: float

    def arrivals_s(self, seed: int) -> list[float]:
        """Of long prompts."""
        rng, at_s, found = random.Random(seed), 0.0, []
        while (at_s := at_s + rng.expovariate(self.rate)) < self.seconds:
            found.append(at_s)
        return found


class Client:
    """Drives one instance.  Its prompts are tokens, so that their length is exact."""

    def __init__(self, http: httpx.AsyncClient, model: str, way: str, traffic: Traffic, seed: int):
        self._http, self._model, self._traffic, self._seed = http, model, traffic, seed
        self._is_apart = way == APART
        self._draw = random.Random(seed)
        self._measures = False
        self.run = Run()

    async def drive(self) -> Run:
        """Decode, and once all streams have begun, measure while prompts come."""
        begun = asyncio.Semaphore(0)
        decoders = [asyncio.create_task(self._decode(begun)) for _ in range(self._traffic.decoders)]
        try:
            for _ in decoders:
                await _beside(decoders, begun.acquire())
            await _beside(decoders, self._measured())
        finally:
            for task in decoders:
                task.cancel()
            await asyncio.gather(*decoders, return_exceptions=True)
        return self.run

    async def _measured(self) -> None:
        before, began_s = await self._scrape(), time.monotonic()
        self._measures = True
        arrivals = self._traffic.arrivals_s(self._seed)
        prompts = [asyncio.create_task(self._prompt(began_s + at_s)) for at_s in arrivals]
        await asyncio.sleep(self._traffic.seconds)
        self._measures = False
        self.run.seconds = time.monotonic() - began_s
        self.run.shares.append(Share.between(before, await self._scrape()))
        await asyncio.gather(*prompts)

    async def _scrape(self) -> Scrape:
        return Scrape.of((await self._http.get("/metrics")).text)

    async def _decode(self, begun: asyncio.Semaphore) -> None:
        traffic = self._traffic
        rank = 1 if self._is_apart else None
        while True:
            last_s: float | None = None
            async for at_s in self._pieces(traffic.decoder_prompt, traffic.decoder_outputs, rank):
                if last_s is None:
                    begun.release()
                elif self._measures:
                    self.run.gaps_s.append(at_s - last_s)
                last_s = at_s
            if last_s is None:
                raise RuntimeError("a decoding stream was refused")

    async def _prompt(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))
        asked_s, first_s = time.monotonic(), None
        rank = 0 if self._is_apart else None
        traffic = self._traffic
        async for piece_s in self._pieces(traffic.prompt_tokens, traffic.prompt_outputs, rank):
            first_s = first_s or piece_s
        if first_s is None:
            self.run.failed += 1
        else:
            self.run.ttft_s.append(first_s - asked_s)

    async def _pieces(
        self, prompt_tokens: int, outputs: int, rank: int | None
    ) -> AsyncIterator[float]:
        """When each piece with text came; nothing of a request that was refused."""
        body = {
            "model": self._model,
            "prompt": [self._draw.randrange(3, 400) for _ in range(prompt_tokens)],
            "max_tokens": outputs,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        headers = {} if rank is None else {_PIN: str(rank)}
        async with self._http.stream("POST", "/v1/completions", json=body, headers=headers) as told:
            if told.status_code != httpx.codes.OK:
                print(told.status_code, await told.aread(), file=sys.stderr)
                return
            async for line in told.aiter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                    yield time.monotonic()


async def _beside(others: Sequence[asyncio.Task[None]], what: Awaitable[Any]) -> None:
    """Wait for it, or raise what one of the others has failed with: they go on for ever."""
    waited = asyncio.ensure_future(what)
    done, _ = await asyncio.wait([waited, *others], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    if waited not in done:
        waited.cancel()


async def _measure(url: str, way: str, traffic: Traffic, seed: int) -> Run:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        return await Client(http, model, way, traffic, seed).drive()


def flags_of(way: str, chunk: int, groups: int, more: Sequence[str]) -> list[str]:
    """Of `levelhead serve`."""
    method = "round_robin" if way == APART else way.removesuffix(_HOLD)
    align = "hold" if way.endswith(_HOLD) else "off"
    size = str(groups)
    return [
        *("--enable-dp-attention", "--tp-size", size, "--dp-size", size, "--log-level", "warning"),
        *("--load-balance-method", method, "--prefill-align", align),
        *("--chunked-prefill-size", str(chunk), *more),
    ]


def measure(
    ways: Sequence[str],
    chunks: Sequence[int],
    traffic: Traffic,
    arguments: argparse.Namespace,
) -> list[Row]:
    """Every way at every chunk size, in turns."""
    cells = [(way, chunk) for chunk in chunks for way in ways]
    runs: dict[tuple[str, int], list[Run]] = {cell: [] for cell in cells}
    more = ["--model", arguments.model] if arguments.model else []
    for repeat in range(arguments.repeats):
        for way, chunk in cells if repeat % 2 == 0 else reversed(cells):
            with served(*flags_of(way, chunk, arguments.groups, more)) as url:
                run = asyncio.run(_measure(url, way, traffic, arguments.seed + repeat))
            runs[way, chunk].append(run)
            print(make_row(way, chunk, [run]), file=sys.stderr)
    return [make_row(*cell, its) for cell, its in runs.items()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_barrier_itl")
    parser.add_argument("--quick", action="store_true", help="two ways, one chunk, ten seconds")
    parser.add_argument("--model", help="default: levelhead's")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--ways", default=f"{APART},round_robin,minimum_tokens,auto,auto{_HOLD}")
    parser.add_argument("--chunks", default="64,256")
    parser.add_argument("--decoders", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=0.25, help="long prompts a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    ways, chunks = arguments.ways.split(","), [int(n) for n in arguments.chunks.split(",")]
    seconds = arguments.seconds
    if arguments.quick:
        ways, chunks, seconds, arguments.repeats = [APART, "auto"], chunks[:1], 10.0, 1
    traffic = Traffic(
        arguments.decoders, 16, 256, arguments.prompt_tokens, 4, arguments.rate, seconds
    )
    rows = measure(ways, chunks, traffic, arguments)
    print(table(rows))
    facts = {"machine": machine_facts(), "repeats": arguments.repeats, "seed": arguments.seed}
    print(json.dumps({"rows": [row._asdict() for row in rows], "traffic": traffic, **facts}))


if __name__ == "__main__":
    main()
