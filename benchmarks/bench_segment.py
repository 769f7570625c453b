"""
Whether a snapshot of the load segment is ever torn, and what one costs.

    python -m benchmarks.bench_segment --quick
    python -m benchmarks.bench_segment --snapshots 10000000 --readers 2

A writer process publishes as fast as it can, without a pause.  Every word of
the record with sequence s is s, so a record mixed from two shows as such,
whatever its checksum says.  Readers take snapshots as fast as they can and
look at every word of each.

    torn        snapshots with a word of another record; the bound is 0
    backwards   snapshots older than the reader's last; the bound is 0
    retries     copies that the checksum refused, and that were taken again

Age is the time from publishing to having a snapshot, of every 1000th.  It is
long when the system runs somebody else in between.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from benchmarks.machine import machine_facts
from shm import load, segment
from shm.double_buffer import DoubleBufferReader, DoubleBufferWriter
from shm.errors import TornRead
from shm.names import Kind, segment_name
from shm.segment import WORD_BYTES

_NUM_FRONT_DOORS = 2
_AGE_EVERY = 1000
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Found:
    """What one reader found."""

    snapshots: int
    torn: int
    backwards: int
    retries: int
    records_seen: int
    elapsed_s: float
    ages_us: list[float]


def _body(sequence: int, num_words: int) -> bytes:
    return sequence.to_bytes(WORD_BYTES, "little") * num_words


def write(name: str, num_words: int) -> None:
    """Publish for ever."""
    writer = DoubleBufferWriter(segment.attach(name, Kind.LOAD, writable=True))
    sequence = 1
    while True:
        sequence = 1 + writer.publish(_body(sequence, num_words), time.monotonic_ns())


def read(name: str, num_words: int, count: int) -> Found:
    """Take count snapshots and look at every word of each."""
    reader = DoubleBufferReader(segment.attach(name, Kind.LOAD))
    torn = backwards = retries = records_seen = taken = last = 0
    ages_us = []
    began_s = time.perf_counter()
    while taken < count:
        try:
            record = reader.snapshot(attempts=1)
        except TornRead:
            retries += 1
            continue
        if record is None:
            continue
        taken += 1
        sequence = record.sequence
        torn += record.body != _body(sequence, num_words)
        backwards += sequence < last
        records_seen += sequence != last
        last = sequence
        if not taken % _AGE_EVERY:
            ages_us.append((time.monotonic_ns() - record.published_ns) / 1e3)
    elapsed_s = time.perf_counter() - began_s
    return Found(taken, torn, backwards, retries, records_seen, elapsed_s, ages_us)


def measure(name: str, num_words: int, snapshots: int, num_readers: int) -> list[Found]:
    """Let readers share the snapshots beside one writer."""
    writer = _SPAWN.Process(target=write, args=(name, num_words), daemon=True)
    writer.start()
    shares = [snapshots // num_readers + (i < snapshots % num_readers) for i in range(num_readers)]
    try:
        with ProcessPoolExecutor(num_readers, _SPAWN) as pool:
            return list(pool.map(read, [name] * num_readers, [num_words] * num_readers, shares))
    finally:
        writer.kill()
        writer.join()


def summary(found: Sequence[Found], published: int) -> dict[str, float]:
    """All readers together; rates and ages are of the whole run."""
    elapsed_s = max(one.elapsed_s for one in found)
    ages_us = sorted(age for one in found for age in one.ages_us) or [0.0]
    total = sum(one.snapshots for one in found)
    return {
        "snapshots": total,
        "torn": sum(one.torn for one in found),
        "backwards": sum(one.backwards for one in found),
        "retries": sum(one.retries for one in found),
        "records_published": published,
        "records_seen": sum(one.records_seen for one in found),
        "elapsed_s": round(elapsed_s, 1),
        "snapshots_per_s": round(total / elapsed_s),
        "published_per_s": round(published / elapsed_s),
        "age_min_us": round(ages_us[0], 1),
        "age_p50_us": round(_percentile(ages_us, 50), 1),
        "age_p99_us": round(_percentile(ages_us, 99), 1),
        "age_n": len(ages_us),
    }


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """Nearest-rank percentile."""
    return ascending[-(-len(ascending) * percent // 100) - 1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a snapshot was torn or went backwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="200,000 snapshots")
    parser.add_argument("--snapshots", type=int, help="default: 10,000,000")
    parser.add_argument("--readers", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--groups", type=int, default=8, help="default: %(default)s")
    options = parser.parse_args(arguments)
    snapshots = options.snapshots or (200_000 if options.quick else 10_000_000)
    if min(snapshots, options.readers, options.groups) < 1:
        parser.error("--snapshots, --readers and --groups must be at least 1")
    body_bytes = load.body_bytes(options.groups, _NUM_FRONT_DOORS)
    instance = f"bench.{os.getpid()}"
    print(f"machine: {machine_facts()}\n{body_bytes} bytes a record, {options.readers} readers")
    made = load.create(instance, options.groups, _NUM_FRONT_DOORS, epoch=1)
    try:
        name = segment_name(instance, Kind.LOAD)
        found = measure(name, body_bytes // WORD_BYTES, snapshots, options.readers)
        result = summary(found, DoubleBufferReader(made).current_sequence)
    finally:
        made.unlink()
    for figure, value in result.items():
        print(f"{figure:18} {value:>14,}")
    facts = {"readers": options.readers, "body_bytes": body_bytes, "machine": machine_facts()}
    print()
    print(json.dumps({**result, **facts}))
    return 1 if result["torn"] or result["backwards"] else 0


if __name__ == "__main__":
    sys.exit(main())
