"""
What draft and verify costs through the front door, beside a light load of others.

    python -m benchmarks.bench_draft_verify --quick
    python -m benchmarks.bench_draft_verify --runs slack_affinity:1,minimum_tokens:2

For each method and number of groups an instance of the default model is started with
`levelhead serve`, in float32 with one thread each, and examples/draft_verify.py runs
beside somebody who sends a short request that shares nothing, again and again.

Read `most_over_new`: how many tokens a request computed beyond those that no request
before it had.  A page (16) is what the cache's page size allows; more is a miss: the
request was sent to a group that did not hold its prefix.  On as many cores as groups
or fewer, times include waiting for the others.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import NamedTuple

import httpx

from benchmarks.instance import served
from benchmarks.machine import machine_facts

_STEP = re.compile(r"(\w+)(?: \d+)?\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)")
_RUNS = "slack_affinity:1,slack_affinity:2,slack_affinity:4,minimum_tokens:2"


class Step(NamedTuple):
    """One request of the example, as it printed it."""

    kind: str
    num_new: int
    num_computed: int
    dp_rank: int
    time_ms: float


@dataclass(frozen=True)
class Row:
    """Figures of one run.  Times are medians, but for the one prefill."""

    method: str
    dp_size: int
    requests: int
    misses: int
    most_over_new: int
    computed_a_round: float
    dp_ranks: str
    others: str
    """Requests of others, by group."""
    prefill_ms: float
    draft_ms: float
    verify_ms: float
    is_greedy: bool


class Others:
    """A thread that sends short requests, with a pause after each; counts them by group."""

    def __init__(self, url: str, pause_s: float, dp_size: int) -> None:
        self.num_by_group = [0] * dp_size
        self._url, self._pause_s = url, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="others")

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=600) as client:
            for number in itertools.count():
                if self._stop.wait(self._pause_s):
                    return
                body = {"prompt": f"{number} bottles on the wall", "max_tokens": 8}
                answer = client.post("/v1/completions", json=body).raise_for_status()
                self.num_by_group[int(answer.headers["x-levelhead-dp-rank"])] += 1


def measure(method: str, dp_size: int, rounds: int, block: int, pause_s: float) -> Row:
    """Run the example once on an instance of its own."""
    flags = ["--dp-size", str(dp_size), "--load-balance-method", method]
    flags += ["--threads-per-rank", "1", "--dtype", "float32"]
    with served(*flags) as url, Others(url, pause_s, dp_size) as others:
        command = [sys.executable, "-m", "examples.draft_verify", "--url", url]
        command += ["--rounds", str(rounds), "--block", str(block)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    steps = [_step(match) for match in map(_STEP.match, output.splitlines()) if match]
    summary = json.loads(output.splitlines()[-1])
    assert len(steps) == summary["requests"], "a line of the example was not understood"
    after_prefill = [step.num_computed for step in steps if step.kind != "prefill"]
    return Row(
        method,
        dp_size,
        summary["requests"],
        summary["misses"],
        max(step.num_computed - step.num_new for step in steps),
        round(sum(after_prefill) / rounds, 1),
        "".join(str(step.dp_rank) for step in steps),
        "/".join(map(str, others.num_by_group)),
        _median_ms(steps, "prefill"),
        _median_ms(steps, "draft"),
        _median_ms(steps, "verify"),
        summary["is_greedy"],
    )


def _step(match: re.Match[str]) -> Step:
    kind, num_new, num_computed, _, dp_rank, time_ms = match.groups()
    return Step(kind, int(num_new), int(num_computed), int(dp_rank), float(time_ms))


def _median_ms(steps: list[Step], kind: str) -> float:
    return round(statistics.median(step.time_ms for step in steps if step.kind == kind), 1)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Draft and verify beside others' requests.")
    parser.add_argument("--runs", default=_RUNS, help="METHOD:GROUPS,...")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--block", type=int, default=8, help="tokens drafted in a round")
    parser.add_argument("--pause-s", type=float, default=0.5, help="between others' requests")
    parser.add_argument("--quick", action="store_true", help="three rounds, no four groups")
    given = parser.parse_args()
    runs = [run.split(":") for run in given.runs.split(",")]
    if given.quick:
        runs, given.rounds = [run for run in runs if int(run[1]) < 4], 3
    rows = []
    for method, dp_size in runs:
        rows.append(measure(method, int(dp_size), given.rounds, given.block, given.pause_s))
        print(json.dumps(asdict(rows[-1])), flush=True)
    facts = {"machine": machine_facts(), "page_size": 16}
    print(json.dumps(facts | {"rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
