"""
What it costs that the load report travels in the row of each step.

    python -m benchmarks.bench_report_cost --quick
    python -m benchmarks.bench_report_cost --model MODEL --streams 1,16 --turns 40

Two ranks of one model decode in lock step, each with so many streams, by two step loops that take
turns of `--steps` steps: `with` makes a report before each step, sends it in its row, and rank 0
takes all reports out, counts what the barrier costs, and publishes them in a load segment;
`without` does none of that, and its rows say only what is computed.  Both hold the same weights
in the same processes, and every other pair of turns begins with the other one, so that what
disturbs the machine disturbs both.

Read `ratio`: step time with over without (of a turn its median step), geometric mean over
pairs of turns, and its 95 % interval; one that has 1 in it is no difference seen.  At most
1.01 is wanted.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from uuid import uuid4

import torch

from benchmarks.bench_step_law import NoReports, NoText
from benchmarks.lockstep_ranks import NoPauses, Seat, Weights, run_ranks
from benchmarks.machine import machine_facts
from benchmarks.paired import ratio_of
from router.model_source import DEFAULT_MODEL
from shm import load
from shm.load import LoadReport
from workers.engine.acceptance import AcceptedCounters
from workers.engine.batch import BatchBuilder
from workers.engine.engine import Engine, Ports
from workers.engine.inbox import Inbox, Submit
from workers.engine.meter import GroupId, LoadMeter
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.request import Request
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.lockstep.reporting import RowReporting
from workers.lockstep.row import StepRow, Timing, Work
from workers.lockstep.runner import LockstepRunner, Ranks
from workers.model.kv_cache import KVCache
from workers.model.row_exchange import Shared, StepExchange
from workers.model.sampling import Sampler
from workers.model.sampling_params import SamplingParams
from workers.ranks.reporting import Place

PAGE_SIZE = 16
IDLE_STEPS = 10
"""Idle rounds for each step: with no pass, the gather alone is seen, and what a report adds."""
NUM_FRONT_DOORS = 2
_EPOCH = 1


class Size(NamedTuple):
    """What is measured.  steps: of a turn."""

    streams: int
    prompt_tokens: int
    turns: int
    steps: int

    @property
    def room(self) -> int:
        """Tokens of a stream, of all turns and some more."""
        return self.prompt_tokens + (self.turns + 2) * self.steps + 4 * self.streams + PAGE_SIZE


class BareRunner(LockstepRunner):
    """Its rows tell what is computed, and nothing of a report."""

    def _gather(self, own: Work, num_plan_words: int = 0) -> list[StepRow]:
        ranks = self._ranks
        words = torch.tensor([*own, *self._timing, 0, num_plan_words], dtype=torch.int64)
        gathered = words.new_empty(ranks.rows.size * len(words))
        ranks.rows.all_gather(gathered, words)
        num_work = len(Work._fields)
        return [
            StepRow(Work(*told[:num_work]), Timing(*told[num_work : num_work + 2]), False, 0, None)
            for told in gathered.view(ranks.rows.size, -1).tolist()
        ]


class NoMeter(LoadMeter):
    """Makes no report but one."""

    def sample(self, *_: Any) -> LoadReport:
        """Return always the same."""
        return _NOTHING


_NOTHING = LoadReport._make([*[0] * (len(LoadReport._fields) - 1), ()])


class Loop:
    """A step loop that the benchmark calls."""

    def __init__(self, seat: Seat, size: Size, threads: int, reporting: RowReporting | None):
        model = seat.model
        num_pages = max(1, size.streams) * (size.room // PAGE_SIZE + 2)
        pool = PagePool(num_pages, PAGE_SIZE)
        kv = KVCache.allocate(model.config, pool.capacity_tokens, model.device, model.dtype)
        batches = BatchBuilder(size.room + PAGE_SIZE, PAGE_SIZE, model.device)
        inner = ModelRunner(model, kv, batches, Sampler(0), threads)
        make = BareRunner if reporting is None else LockstepRunner
        reports = reporting or NoReports()
        ranks = Ranks(seat.group, seat.group, NoPauses(), reports, NUM_FRONT_DOORS)
        group = GroupId(seat.rank, _EPOCH)
        meter = (NoMeter if reporting is None else LoadMeter)(group, time.monotonic_ns)
        put = _ignore if reporting is None else reporting.put
        self.inbox = Inbox()
        limits = Limits(max(1, size.streams), size.streams, 512)
        self.engine = Engine(
            self.inbox,
            Scheduler(limits, pool, RadixCache(PAGE_SIZE)),
            make(inner, ranks),
            AcceptedCounters(NUM_FRONT_DOORS),
            meter,
            Ports(_ignore, put, _ignore),
            heartbeat_s=60.0,
        )
        inner.warm_up(exchange=_one_each(seat))

    def fill(self, size: Size, vocab_size: int) -> None:
        """Take the streams in, and compute their prompts."""
        draw, greedy = random.Random(size.streams), SamplingParams(temperature=0)
        for i in range(size.streams):
            prompt = [draw.randrange(3, vocab_size) for _ in range(size.prompt_tokens)]
            request = Request(i, prompt, greedy, i, size.room, frozenset(), NoText())
            self.inbox.put(Submit(request))
        for _ in range(2 + size.streams * size.prompt_tokens // 256):
            self.engine.step(0.0)

    def turn(self, num_steps: int) -> float:
        """Milliseconds of a step, the median: what holds a step up is not the report."""
        times_ms = []
        for _ in range(num_steps):
            began_s = time.perf_counter()
            self.engine.step(0.0)
            times_ms.append((time.perf_counter() - began_s) * 1e3)
        return median(times_ms)


def _ignore(_: Any) -> None:
    pass


def _raise(error: BaseException) -> None:
    raise error


def _one_each(seat: Seat) -> StepExchange:
    shared = Shared(seat.group, [1] * seat.size)
    return StepExchange(shared, shared)


def take_turns(
    seat: Seat, size: Size, threads: int, instance: str, run_dir: Path
) -> list[tuple[float, float]]:
    """Without and with, in pairs; milliseconds of a step on this rank."""
    place = Place(GroupId(seat.rank, _EPOCH), seat.size, NUM_FRONT_DOORS, instance, _EPOCH, run_dir)
    reporting = RowReporting(place, _raise, publishes=seat.rank == 0)
    loops = [Loop(seat, size, threads, each) for each in (None, reporting)]
    reporting.start()
    for loop in loops:
        loop.fill(size, seat.model.config.vocab_size)
        loop.turn(size.steps)
    pairs = []
    for number in range(size.turns):
        order = (0, 1) if number % 2 else (1, 0)
        took_ms = {which: loops[which].turn(size.steps) for which in order}
        pairs.append((took_ms[0], took_ms[1]))
    return pairs


def measure(size: Size, weights: Weights, ranks: int) -> dict[str, Any]:
    """One row."""
    instance = f"bench_{uuid4().hex[:12]}"
    segment = load.create(instance, ranks, NUM_FRONT_DOORS, _EPOCH)
    try:
        with tempfile.TemporaryDirectory(prefix="levelhead-bench-") as run_dir:
            pairs = run_ranks(
                ranks, weights, take_turns, size, weights.threads, instance, Path(run_dir)
            )[0]
    finally:
        segment.close()
        segment.unlink()
    return make_row(size, pairs)


def make_row(size: Size, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """pairs: milliseconds of a step without and with, by turn."""
    without, with_report = map(list, zip(*pairs, strict=True))
    ratio = ratio_of(without, with_report)
    assert ratio is not None, "fewer than three turns"
    return {
        "streams": size.streams,
        "without_ms": round(median(without), 3),
        "with_ms": round(median(with_report), 3),
        "ratio": round(ratio.mean, 4),
        "low": round(ratio.low, 4),
        "high": round(ratio.high, 4),
        "verdict": ratio.verdict,
        "turns": len(pairs),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_report_cost")
    parser.add_argument("--quick", action="store_true", help="few short turns")
    parser.add_argument("--model", default=DEFAULT_MODEL.name, help="or a folder or GGUF file")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--streams", default="0,1,16", help="of each rank; 0: idle rounds")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    arguments = parser.parse_args()
    turns, steps = (6, 8) if arguments.quick else (arguments.turns, arguments.steps)
    weights = Weights.named(arguments.model, arguments.dtype, arguments.threads)
    streams = map(int, arguments.streams.split(","))
    sizes = [Size(n, 64, turns, steps if n else IDLE_STEPS * steps) for n in streams]
    rows = [measure(size, weights, arguments.ranks) for size in sizes]
    print("  ".join(f"{name:>18}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>18}" for value in row.values()))
    facts = {"machine": machine_facts(), "ranks": arguments.ranks, "dtype": arguments.dtype}
    print(json.dumps({"rows": rows, "steps": steps, **facts}))


if __name__ == "__main__":
    main()
