"""
What a proxy costs: CPU for each request, and latency, beside its peers.

    python -m benchmarks.bench_proxy --quick
    python -m benchmarks.bench_proxy --peers-venv DIR --proxies direct,nginx,levelhead --repeats 7

Peers are optional, and measured if they are found: Debian's nginx-light, and
in a venv of their own `pip install sglang-router==0.3.2 vllm-router==0.1.17`.

The mock workers and every proxy are started once.  Then, case by case, the
proxies take turns, a window each, `--repeats` times round (A B C A B C ...),
so that whatever else the machine does hits all of them.  Windows are exact
(see load.py); CPU is that of a proxy's whole process tree.

Read `CPU us/request` first: latency also depends on the generator and the
workers, which share the cores with the proxy.  `direct` is the bound: no proxy
can answer sooner.  The last two columns say what measuring costs.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn

import uvloop

from benchmarks.cases import CASES, QUICK_CASES, Case, bodies
from benchmarks.load import ClosedLoop, Load, LoadError, OpenLoop
from benchmarks.machine import machine_facts
from benchmarks.processes import ProcessError
from benchmarks.proxies import Proxy, ProxyMissing, all_proxies
from benchmarks.samples import YARDSTICK, CpuSpent, Row, Sample, make_row, sample, table
from benchmarks.targets import DIRECT, Target, Workers, WrongAnswer, start_target, start_workers

_WARM_UP_S = 0.3
_FAILURES = (LoadError, ProcessError, WrongAnswer, HTTPException, OSError)


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    proxies: list[Proxy]
    with_direct: bool
    cases: list[Case]
    repeats: int
    quick: bool

    def window_s(self, case: Case) -> float:
        """How long new requests are sent in a window of case."""
        return case.quick_window_s if self.quick else case.window_s


@dataclass
class Report:
    """What was found out so far."""

    rows: list[Row]
    versions: dict[str, str]
    missing: dict[str, str]
    failed: list[dict[str, str]]

    def fail(self, target: str, case: str, error: Exception) -> None:
        """Note, loudly, that a target takes no further part in a case."""
        print(f"\n{target} failed in {case}: {error}", flush=True)
        self.failed.append({"proxy": target, "case": case, "reason": str(error)})


async def measure(target: Target, workers: Workers, case: Case, window_s: float) -> Sample:
    """Warm up over fresh connections, then measure one window."""
    load: Load
    if case.requests_per_s is None:
        load = ClosedLoop(bodies(case))
    else:
        load = OpenLoop(bodies(case), case.requests_per_s)
    try:
        await load.connect(target.ports, case.num_connections)
        await load.run(_WARM_UP_S)
        before = _spent(target, workers)
        timings = await load.run(window_s)
        after = _spent(target, workers)
    finally:
        load.close()
    return sample(timings, after - before, target.rss_bytes())


def _spent(target: Target, workers: Workers) -> CpuSpent:
    return CpuSpent(target.cpu_ns(), time.process_time_ns(), workers.process.cpu_ns())


def run_case(
    targets: Sequence[Target], workers: Workers, case: Case, plan: Plan, report: Report
) -> list[Row]:
    """Measure all targets in turn, plan.repeats times round; who fails is out of the case."""
    workers.set_answer(case.answer)
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for _ in range(plan.repeats):
        for target in targets:
            if target.name not in samples:
                continue
            try:
                target.check_answer(case)
                one = uvloop.run(measure(target, workers, case, plan.window_s(case)))
                samples[target.name].append(one)
            except _FAILURES as error:
                del samples[target.name]
                report.fail(target.name, case.name, error)
    yardstick = samples.get(YARDSTICK, [])
    return [make_row(name, case, repeats, yardstick) for name, repeats in samples.items()]


def start_targets(
    stack: ExitStack, plan: Plan, workers: Workers, folder: Path, report: Report
) -> list[Target]:
    """Start what is installed, and say of the rest why it is missing."""
    first = plan.cases[0]
    workers.set_answer(first.answer)
    targets = [Target(DIRECT, workers.ports, None)] if plan.with_direct else []
    for proxy in plan.proxies:
        try:
            report.versions[proxy.name] = proxy.version()
        except ProxyMissing as reason:
            report.missing[proxy.name] = str(reason)
            print(f"{proxy.name} is left out: {reason}", flush=True)
            continue
        try:
            targets.append(start_target(stack, proxy, workers, first, folder))
        except ProcessError as error:
            report.fail(proxy.name, "start", error)
    return targets


def run(plan: Plan) -> Report:
    """Start everything, measure every case, and end everything."""
    report = Report([], {}, {}, [])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        workers = start_workers(stack, folder)
        targets = start_targets(stack, plan, workers, folder, report)
        print(f"machine: {machine_facts()}\nversions: {report.versions}", flush=True)
        for case in plan.cases:
            rows = run_case(targets, workers, case, plan, report)
            print(table(case, rows), flush=True)
            report.rows += rows
    return report


def parse_plan(arguments: Sequence[str] | None) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    names = [DIRECT, *all_proxies("nginx", None)]
    parser.add_argument("--quick", action="store_true", help="three cases, short windows")
    parser.add_argument("--proxies", default=",".join(names), help="default: %(default)s")
    parser.add_argument("--cases", help=f"of {','.join(CASES)}; quick: {','.join(QUICK_CASES)}")
    parser.add_argument("--repeats", type=int, help="default: 5, quick: 3")
    parser.add_argument("--peers-venv", type=Path, help="venv that holds the Rust routers")
    parser.add_argument("--nginx", default="nginx", help="nginx binary")
    options = parser.parse_args(arguments)
    wanted = options.proxies.split(",")
    cases = (options.cases or ",".join(QUICK_CASES if options.quick else CASES)).split(",")
    for name in {*wanted} - {*names} | {*cases} - {*CASES}:
        parser.error(f"no proxy or case is called {name!r}")
    repeats = options.repeats
    if repeats is None:
        repeats = 3 if options.quick else 5
    if repeats < 1:
        parser.error(f"--repeats must be at least 1, not {repeats}")
    proxies = all_proxies(options.nginx, options.peers_venv)
    return Plan(
        proxies=[proxies[name] for name in wanted if name != DIRECT],
        with_direct=DIRECT in wanted,
        cases=[CASES[name] for name in cases],
        repeats=repeats,
        quick=options.quick,
    )


def _exit(signum: int, frame: object) -> NoReturn:
    """Let SIGTERM unwind the stack, so that every process is ended."""
    raise SystemExit(128 + signum)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if anything failed that was not just missing."""
    plan = parse_plan(arguments)
    signal.signal(signal.SIGTERM, _exit)
    gc.disable()  # pauses of ours would be somebody's p99; what we keep is small
    report = run(plan)
    facts = {"repeats": plan.repeats, "quick": plan.quick, "machine": machine_facts()}
    print()
    print(json.dumps({**asdict(report), **facts}))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
