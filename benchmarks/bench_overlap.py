"""
What it brings to prepare the next step while the current one is computed.

    python -m benchmarks.bench_overlap MODEL --threads 1 --streams 1,16,64

Two engines, with overlap and without, hold the same weights in one process, and take
turns of TURN_STEPS decode steps with as many streams, so that what disturbs the machine
disturbs both.  No HTTP: only the step loop.  `ratio` is the median over turns of
steps/s(overlap) / steps/s(plain); `used` is the share of steps that ran with what was
prepared; `beside_ms` is how long preparing takes, the bound of what can be gained.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from benchmarks.machine import machine_facts
from workers.engine.acceptance import AcceptedCounters
from workers.engine.batch import BatchBuilder
from workers.engine.engine import Engine, Ports
from workers.engine.forward_thread import ForwardThread, Lane, SameThread
from workers.engine.inbox import Inbox, Submit
from workers.engine.meter import GroupId, LoadMeter
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.request import Request
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.model.checkpoint import open_checkpoint
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel
from workers.model.sampling import Sampler
from workers.model.sampling_params import SamplingParams

PAGE_SIZE = 16
PROMPT_TOKENS = 128
TURN_STEPS = 20


class _NoText:
    """Turns nothing into text."""

    stopped = False

    def push(self, token_id: int) -> str:
        """Ignore it."""
        return ""

    def finish(self) -> str:
        """Nothing was held back."""
        return ""


class Size(NamedTuple):
    """So many streams of so many outputs, more than the benchmark computes."""

    num_streams: int
    num_outputs: int


class Loop:
    """A step loop that the benchmark calls."""

    def __init__(self, model: LlamaModel, lane: Lane, size: Size, threads: int) -> None:
        device, num_streams = model.device, size.num_streams
        num_pages = 2 + (PROMPT_TOKENS + size.num_outputs) // PAGE_SIZE
        room = num_pages * PAGE_SIZE
        pool = PagePool(num_streams * num_pages, PAGE_SIZE)
        kv = KVCache.allocate(model.config, pool.capacity_tokens, device, model.dtype)
        batches = BatchBuilder(room, PAGE_SIZE, device)
        self.runner = ModelRunner(model, kv, batches, Sampler(0), threads, lane)
        self.runner.warm_up()
        self.inbox = Inbox()
        self.engine = Engine(
            self.inbox,
            Scheduler(Limits(num_streams, num_streams, 512), pool, RadixCache(PAGE_SIZE)),
            self.runner,
            AcceptedCounters(1),
            LoadMeter(GroupId(0, 1), time.monotonic_ns),
            Ports(lambda _outputs: None, lambda _report: None, lambda _error: None),
            heartbeat_s=60.0,
        )

    def fill(self, size: Size, vocab_size: int) -> None:
        """Take the streams in, and compute their prompts."""
        num_streams, rng = size.num_streams, random.Random(size.num_streams)
        for i in range(num_streams):
            prompt = [rng.randrange(3, vocab_size) for _ in range(PROMPT_TOKENS + i % PAGE_SIZE)]
            greedy = SamplingParams(temperature=0)
            request = Request(i, prompt, greedy, i, size.num_outputs, frozenset(), _NoText())
            self.inbox.put(Submit(request))
        for _ in range(2 + num_streams * (PROMPT_TOKENS + PAGE_SIZE) // 512):
            self.engine.step(0.0)

    def turn(self) -> float:
        """Steps a second."""
        began = time.perf_counter()
        for _ in range(TURN_STEPS):
            self.engine.step(0.0)
        return TURN_STEPS / (time.perf_counter() - began)


def measure(model: LlamaModel, num_streams: int, turns: int, threads: int) -> dict[str, Any]:
    """One row."""
    size = Size(num_streams, (turns + 1) * TURN_STEPS + 2 * num_streams)
    loops = [Loop(model, lane, size, threads) for lane in (SameThread(), ForwardThread())]
    prepared: list[float] = []
    _time_preparing(loops[1].runner, prepared)
    for loop in loops:
        loop.fill(size, model.config.vocab_size)
        loop.turn()
    before = loops[1].runner.num_foreseen
    pairs = []
    for number in range(turns):
        order = loops if number % 2 else loops[::-1]
        rates = {id(loop): loop.turn() for loop in order}
        pairs.append((rates[id(loops[0])], rates[id(loops[1])]))
    ratios = [ahead / plain for plain, ahead in pairs]
    return {
        "streams": num_streams,
        "plain_steps_per_s": round(median(plain for plain, _ in pairs), 1),
        "overlap_steps_per_s": round(median(ahead for _, ahead in pairs), 1),
        "ratio": round(median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "used": round((loops[1].runner.num_foreseen - before) / (turns * TURN_STEPS), 3),
        "beside_ms": round(1e3 * median(prepared), 3),
    }


def _time_preparing(runner: ModelRunner, seconds: list[float]) -> None:
    prepare = runner.prepare

    def timed(decodes: Sequence[Any]) -> None:
        began = time.perf_counter()
        prepare(decodes)
        seconds.append(time.perf_counter() - began)

    runner.prepare = timed  # type: ignore[method-assign]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_overlap")
    parser.add_argument("model", type=Path, help="a Hugging Face folder or a GGUF file")
    parser.add_argument("--streams", default="1,16,64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = open_checkpoint(arguments.model)
    dtype = getattr(torch, arguments.dtype)
    model = LlamaModel(checkpoint.config, torch.device(arguments.device), dtype)
    model.load(checkpoint)
    streams = [int(n) for n in arguments.streams.split(",")]
    rows = [measure(model, n, arguments.turns, arguments.threads) for n in streams]
    print("  ".join(f"{name:>19}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>19}" for value in row.values()))
    facts = {"machine": machine_facts(), "turns": arguments.turns, "threads": arguments.threads}
    print(json.dumps({"rows": rows, "dtype": arguments.dtype, **facts}))


if __name__ == "__main__":
    main()
