"""
How long a step takes in lock step: the law, and whether it follows the largest group or the sum.

    python -m benchmarks.bench_step_law --quick
    python -m benchmarks.bench_step_law --model MODEL --ranks 2 --repeats 3

Real ranks of one model compute batches that are made for it: one group has so many KV tokens
(K), requests that decode (n) and prompt tokens beside them (p); the others are idle, or have a
quarter of it, or as much.  Each cell of the grid is some steps with the same requests, decoding
on; its time is their median, of each step the slowest rank's, from the gather of rows to the
samples.  The grid is shuffled, and gone through `--repeats` times, of which the least counts:
what disturbs the machine makes steps longer.

    T = base + a K + b n + c p

is fitted to all cells, weighed by the heaviest group and by the sum over groups, and again
to the cells without prompts.  `both` has the two side by side (a b c of the largest, then of the
sum): attention is each group's own; the feed-forward part is computed by every rank for
everybody's tokens, and padded to the largest where that is cheaper.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from itertools import count, product
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.lockstep_ranks import NoPauses, Seat, Weights, run_ranks
from benchmarks.machine import machine_facts
from benchmarks.step_law import Cell, Law, Load, fit_both, fit_largest, fit_sum
from router.model_source import DEFAULT_MODEL
from shm.load import LoadReport
from workers.engine.batch import BatchBuilder
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Request
from workers.engine.runner import ModelRunner
from workers.lockstep.row import StepRow
from workers.lockstep.runner import LockstepRunner, Ranks
from workers.model.kv_cache import KVCache
from workers.model.sampling import Sampler
from workers.model.sampling_params import SamplingParams

PAGE_SIZE = 16
_SETTLING_STEPS = 2
_GREEDY = SamplingParams(temperature=0)


class Grid(NamedTuple):
    """What one group computes, and what part of it the others do."""

    kv_tokens: tuple[int, ...]
    requests: tuple[int, ...]
    prefill_tokens: tuple[int, ...]
    parts: tuple[float, ...] = (0.0, 0.25, 1.0)

    def steps(self, num_groups: int, longest: int) -> list[tuple[Load, ...]]:
        """Every cell once; a request has four tokens at least, and so many at most."""
        kinds = product(self.kv_tokens, self.requests, self.prefill_tokens, self.parts)
        return [
            (load, *[_part(load, part)] * (num_groups - 1))
            for kv_tokens, requests, prefill, part in kinds
            if 4 * requests <= kv_tokens <= longest * requests
            for load in [Load(kv_tokens, requests, prefill)]
        ]


QUICK = Grid((128, 1024), (1, 8), (0, 64))
FULL = Grid((256, 3072), (1, 4, 16), (0, 64, 256))


def _part(load: Load, part: float) -> Load:
    if not part:
        return Load()
    requests = max(1, round(part * load.requests))
    return Load(round(part * load.kv_tokens), requests, round(part * load.prefill_tokens))


class NoText:
    """Turns nothing into text."""

    stopped = False

    def push(self, token_id: int) -> str:
        """Ignore it."""
        return ""

    def finish(self) -> str:
        """Nothing was held back."""
        return ""


class NoReports:
    """Nobody reports, and nobody counts."""

    own: LoadReport | None = None

    def note(self, rows: Sequence[StepRow]) -> None:
        """Ignore them."""


class Batch:
    """The requests of a cell in one group, which decode on, and new prompts beside them."""

    def __init__(self, load: Load, num_steps: int, numbers: count[int]) -> None:
        self._load, self._numbers = load, numbers
        self._pages = count()
        self._decoding = []
        for number in range(load.requests):
            extra = number < load.kv_tokens % load.requests
            length = load.kv_tokens // load.requests + extra - 1
            request = self._request(length)
            request.output_ids.append(3)
            self._decoding.append((request, self._table(length + 1 + num_steps)))
        self._prompt_pages = self._table(load.prefill_tokens)

    def plan(self) -> Plan:
        """The next step's."""
        chunks = [Chunk(r, r.num_tokens - 1, 1, pages) for r, pages in self._decoding]
        prefill = self._load.prefill_tokens
        if prefill:
            chunks.append(Chunk(self._request(prefill), 0, prefill, self._prompt_pages))
        return Plan(tuple(chunks), prefill, ())

    def advance(self) -> None:
        """Every request has got a token."""
        for request, _ in self._decoding:
            request.output_ids.append(3)

    def _request(self, length: int) -> Request:
        number = next(self._numbers)
        prompt = [3 + i % 97 for i in range(length)]
        return Request(number, prompt, _GREEDY, number, 1 << 20, frozenset(), NoText())

    def _table(self, num_tokens: int) -> list[int]:
        return [next(self._pages) for _ in range(-(-num_tokens // PAGE_SIZE))]


def time_steps(
    seat: Seat, cells: Sequence[tuple[Load, ...]], num_steps: int, threads: int
) -> list[list[int]]:
    """Nanoseconds of each step of each cell, on this rank."""
    runner = _runner(seat, cells, num_steps, threads)
    numbers = count()
    times = []
    for loads in cells:
        batch = Batch(loads[seat.rank], _SETTLING_STEPS + num_steps, numbers)
        own = []
        for _ in range(_SETTLING_STEPS + num_steps):
            plan = batch.plan()
            began_ns = time.monotonic_ns()
            if plan.chunks:
                runner.launch(plan)()
            else:
                runner.rest()
            own.append(time.monotonic_ns() - began_ns)
            batch.advance()
        times.append(own[_SETTLING_STEPS:])
    return times


def _runner(
    seat: Seat, cells: Sequence[tuple[Load, ...]], num_steps: int, threads: int
) -> LockstepRunner:
    device, model = seat.model.device, seat.model
    total = _SETTLING_STEPS + num_steps
    room = max(_room(load, total) for loads in cells for load in loads)
    kv = KVCache.allocate(model.config, room, device, model.dtype)
    longest = max(load.kv_tokens + load.prefill_tokens for loads in cells for load in loads)
    batches = BatchBuilder(longest + total + PAGE_SIZE, PAGE_SIZE, device)
    inner = ModelRunner(model, kv, batches, Sampler(0), threads)
    ranks = Ranks(seat.group, seat.group, NoPauses(), NoReports(), 1)
    runner = LockstepRunner(inner, ranks)
    runner.warm_up(lambda: None)
    return runner


def _room(load: Load, num_steps: int) -> int:
    grown = load.kv_tokens + load.requests * (num_steps + PAGE_SIZE) + load.prefill_tokens
    return -(-grown // PAGE_SIZE + 2) * PAGE_SIZE


def cells_of(
    steps: Sequence[tuple[Load, ...]], times: Sequence[Sequence[Sequence[int]]]
) -> list[Cell]:
    """Each once.  times: by rank, by cell, by step."""
    least: dict[tuple[Load, ...], float] = {}
    for number, loads in enumerate(steps):
        slowest = map(max, zip(*(own[number] for own in times), strict=True))
        least[loads] = min(median(slowest) / 1e6, least.get(loads, math.inf))
    return [Cell(*each) for each in least.items()]


def table(laws: dict[str, Law]) -> str:
    """In markdown."""
    rows = ["| weighed by | base ms | a us | b us | c us | R2 | median error |", "|" + "---|" * 7]
    for name, law in laws.items():
        us = [f"{1e3 * weight:.2f}" for weight in law.weights_ms]
        a, b, c = (" + ".join(us[i::3]) for i in range(3))
        error = f"{100 * law.error:.1f} %"
        cells = (name, f"{law.base_ms:.2f}", a, b, c, f"{law.r_squared:.4f}", error)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measure, fit and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_step_law")
    parser.add_argument("--quick", action="store_true", help="a small grid, once")
    parser.add_argument("--model", default=DEFAULT_MODEL.name, help="or a folder or GGUF file")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=5, help="of each cell")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    grid, repeats = (QUICK, 1) if arguments.quick else (FULL, arguments.repeats)
    weights = Weights.named(arguments.model, arguments.dtype, arguments.threads)
    longest = weights.max_model_len() - _SETTLING_STEPS - arguments.steps
    steps = grid.steps(arguments.ranks, longest) * repeats
    random.Random(arguments.seed).shuffle(steps)
    torch.set_num_threads(1)
    times = run_ranks(
        arguments.ranks, weights, time_steps, steps, arguments.steps, arguments.threads
    )
    cells = cells_of(steps, times)
    decodes = [cell for cell in cells if not cell.total.prefill_tokens]
    fits = {"the largest": fit_largest, "the sum": fit_sum, "both": fit_both}
    told = {}
    for title, chosen in (("all cells", cells), ("decodes alone", decodes)):
        laws = {name: make(chosen) for name, make in fits.items()}
        told[title] = {name: law._asdict() for name, law in laws.items()}
        print(f"\n{title}, n = {len(chosen)}\n\n{table(laws)}")
    facts = {"machine": machine_facts(), "ranks": arguments.ranks, "dtype": arguments.dtype}
    print(json.dumps({"fits": told, "cells": cells, **facts}))


if __name__ == "__main__":
    main()
