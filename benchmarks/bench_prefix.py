"""
What it costs a front door to know where prefixes are.

    python -m benchmarks.bench_prefix --quick
    python -m benchmarks.bench_prefix

    digest      naming the pages of a prompt, microseconds per 1,000 tokens (pages of 16)
    match       looking a prompt of 1,000 tokens up, all of it held by one group
    miss        looking one up that nobody holds
    expect      noting a dispatch of 1,000 tokens, and taking it back
    store       taking over 1,000 digests that a group tells, microseconds
    bytes       memory of one digest that one group holds, with the index at its cap

Seeded; the minimum, the median and the p99 of --repeats.  No bounds are set: the
prompts are tokenized anyway, at about a millisecond per 1,000 tokens.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from statistics import median

from balancer.prefix_index import MAX_DIGESTS, Change, PrefixEvent, PrefixIndex
from benchmarks.machine import machine_facts
from shm.page_digest import page_digests

_PAGE_SIZE = 16
_NUM_TOKENS = 1000
_NUM_DIGESTS = 1000


def measure(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Microseconds of one call."""
    times_us = []
    for _ in range(repeats):
        began_ns = time.perf_counter_ns()
        call()
        times_us.append((time.perf_counter_ns() - began_ns) / 1e3)
    times_us.sort()
    found = {"min": times_us[0], "median": median(times_us), "p99": times_us[repeats * 99 // 100]}
    return {name: round(value, 1) for name, value in found.items()}


def bytes_per_digest(rng: random.Random, num_digests: int) -> float:
    """Memory of a full index, over its digests."""
    tracemalloc.start()
    index = PrefixIndex(1, num_digests)
    for _ in range(num_digests // _NUM_DIGESTS):
        told = [rng.getrandbits(64) for _ in range(_NUM_DIGESTS)]
        index.observe(0, PrefixEvent(Change.STORED, told))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(used / len(index), 1)


def run(num_groups: int, repeats: int, seed: int) -> dict[str, dict[str, float]]:
    """All timings with that many groups and an index at its cap."""
    rng = random.Random(seed)
    tokens = [rng.randrange(150_000) for _ in range(_NUM_TOKENS)]
    digests, unknown = page_digests(tokens, _PAGE_SIZE), [rng.getrandbits(64)]
    index = PrefixIndex(num_groups)
    for rank in range(MAX_DIGESTS // _NUM_DIGESTS):
        told = [rng.getrandbits(64) for _ in range(_NUM_DIGESTS)]
        index.observe(rank % num_groups, PrefixEvent(Change.STORED, told))
    index.observe(0, PrefixEvent(Change.STORED, digests))
    news = iter(
        [
            PrefixEvent(Change.STORED, [rng.getrandbits(64) for _ in range(_NUM_DIGESTS)])
            for _ in range(repeats)
        ]
    )
    return {
        "digest": measure(lambda: page_digests(tokens, _PAGE_SIZE), repeats),
        "match": measure(lambda: index.match(digests), repeats),
        "miss": measure(lambda: index.match(unknown), repeats),
        "expect": measure(lambda: index.withdraw(index.expect(0, digests)), repeats),
        "store": measure(lambda: index.observe(0, next(news)), repeats),
    }


def main() -> None:
    """Measure, print a table, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    repeats = 200 if arguments.quick else arguments.repeats
    found = {groups: run(groups, repeats, arguments.seed) for groups in (8, 72)}
    for groups, rows in found.items():
        print(f"{groups} groups, us, n = {repeats}")
        for name, row in rows.items():
            print(f"  {name:8} min {row['min']:8} median {row['median']:8} p99 {row['p99']:8}")
    num_bytes = bytes_per_digest(random.Random(arguments.seed), MAX_DIGESTS)
    print(f"bytes per digest: {num_bytes}, {num_bytes * MAX_DIGESTS / 2**20:.0f} MiB at the cap")
    facts = {"machine": machine_facts(), "seed": arguments.seed, "repeats": repeats}
    print(json.dumps(facts | {"us": found, "bytes_per_digest": num_bytes}))


if __name__ == "__main__":
    main()
