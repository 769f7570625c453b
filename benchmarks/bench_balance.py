"""
Whether the simulator is right: the same traffic through real processes and through it.

    python -m benchmarks.bench_balance --quick
    python -m benchmarks.bench_balance --trace mooncake_conversation.jsonl --dp-size 4,8
    python -m benchmarks.bench_balance --real

Live are `levelhead serve`, its front door, its ledger, reports through the gather and the
segment, and ranks with everything but a forward pass: with `--device emulated` they sleep for
the modelled time, behind a barrier of all ranks.  Requests come by HTTP at the times, and
with the lengths and prefixes, of the trace.  Then the simulator has the same requests at the same
times, groups with the same limits, the same step cost.

All of it takes `--time-scale` times as long as the step cost's defaults say, on both
sides: so many processes share few cores, and steps have to be longer than planning them.
A run with which the machine did not keep up is not valid (benchmarks.balance_pair), and left out.

The groups are a decode pool (c = 0), unless `--unified`.  For the simulator a report is
seen at once (`--report-delay-steps 0`): a live one takes some milliseconds from the beginning
of a step.

Requests that come within milliseconds of each other may change places on their way, a long
one with a short one.  What `round_robin` makes of a trace hangs on that order: with `--pin`
clients name the groups themselves, in the trace's order, and only the engines may differ.

Read `slowdown` (sum of step times over what level groups would take) and `KV max/mean` side by
side, and `live/sim`, which is that of KV max/mean.  When two methods are tied is said below the
table.  The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Container, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import uvloop

from benchmarks.balance_flags import parse
from benchmarks.balance_pair import Pair
from benchmarks.balance_real import RealPair, Scale, measure_real, real_table
from benchmarks.balance_steps import LiveFigures, live_figures, read_log
from benchmarks.balance_table import TIE_RULE, agreement, make_rows, table
from benchmarks.balance_traffic import Driven, body_of, drive
from benchmarks.instance import served
from benchmarks.machine import machine_facts
from router.simulate.options import parse_simulate
from router.simulate.runs import Plan, plans, run
from router.simulate.trace_file import read_trace

_WARM_UP = 0.05
_PAGE_SIZE = 64
_CHUNK = 10_000_000


def measure(plan: Plan, pins: Container[str] = ()) -> Pair:
    """Live, then simulated; pins: methods that clients follow themselves."""
    live, driven = run_live(plan, plan.settings.num_groups if plan.method in pins else 0)
    simulated = run(plan, lambda num_ended: None).figures
    if simulated.slowdown is None or simulated.kv_max_over_mean is None:
        raise ValueError(f"{plan}: nothing happened in the simulator's window")
    return Pair(
        plan.traffic.name,
        plan.settings.num_groups,
        plan.method,
        plan.seed,
        plan.load,
        live.slowdown,
        simulated.slowdown,
        live.kv_max_over_mean,
        simulated.kv_max_over_mean,
        live.num_rounds,
        live.step_ms,
        live.late_share,
        live.late_ms,
        live.gap_share,
        1e3 * sum(driven.late_s) / len(driven.late_s),
        len(driven.failures),
    )


def run_live(plan: Plan, pinned_groups: int) -> tuple[LiveFigures, Driven]:
    """Start an instance, drive it until the last request has been sent, and read its steps."""
    traffic, num_groups = plan.traffic, plan.settings.num_groups
    bodies = _bodies(plan.traffic.name, tuple(traffic.requests), traffic.page_size)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "steps.jsonl"
        with served(*_flags(plan, log)) as url:
            port = int(url.rpartition(":")[2])
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                driving = drive(port, traffic, bodies, plan.rate_scale, plan.seed, pinned_groups)
                driven = runner.run(driving)
        for failure in driven.failures[:3]:
            print(f"failed: {failure!r}", file=sys.stderr)
        window_s = driven.window_s(len(bodies), _WARM_UP)
        base_ms = plan.settings.step.base_ms
        return live_figures(read_log(log), num_groups, base_ms, window_s), driven


@lru_cache(maxsize=1)
def _bodies(name: str, requests: tuple[object, ...], page_size: int) -> list[bytes]:
    return [body_of(each, page_size, n) for n, each in enumerate(requests)]  # type: ignore[arg-type]


def _flags(plan: Plan, log: Path) -> list[str]:
    limits, settings = plan.settings.limits, plan.settings
    flags = {
        "--device": "emulated",
        "--emulated-step-cost": ",".join(map(repr, settings.step)),
        "--emulated-engine": settings.pace.value,
        "--emulated-step-log": log,
        "--dp-size": settings.num_groups,
        "--load-balance-method": plan.method,
        "--max-total-tokens": limits.kv_capacity_tokens,
        "--max-model-len": limits.kv_capacity_tokens // limits.page_size * limits.page_size,
        "--page-size": limits.page_size,
        "--max-running-requests": limits.max_running_requests,
        "--max-queued-requests": 1 << 16,
        "--chunked-prefill-size": limits.max_step_tokens,
        "--schedule-policy": "fcfs",
        "--max-load-age": settings.max_load_age_s,
        "--drain-timeout-s": 1,
        "--seed": plan.seed,
        "--log-level": "error",
    }
    return [str(word) for pair in flags.items() for word in pair]


def make_plans(given: argparse.Namespace, folder: Path) -> list[Plan]:
    """What `levelhead simulate` would plan for the same flags."""
    traces = given.trace or [str(write_mix(folder / "mix.jsonl", given.max_requests))]
    cost = [given.time_scale * ms for ms in given.step_cost]
    if not given.unified:
        cost[-1] = 0.0
    flags = [f"--trace={trace}" for trace in traces]
    flags += [
        f"--dp-size={given.dp_size}",
        f"--methods={given.methods}",
        f"--mode={'unified' if given.unified else 'decode'}",
        f"--load={given.load}",
        f"--seeds={given.seeds}",
        f"--max-requests={given.max_requests}",
        f"--kv-capacity-tokens={given.kv_capacity_tokens}",
        f"--prefix-cache-tokens={round((1 - given.load) * given.kv_capacity_tokens)}",
        f"--chunked-prefill-size={8192 if given.unified else _CHUNK}",
        f"--step-cost={','.join(map(repr, cost))}",
        f"--report-delay-steps={given.report_delay_steps}",
    ]
    return [_of_one_page_size(plan) for plan in plans(parse_simulate(flags), print)]


def _of_one_page_size(plan: Plan) -> Plan:
    """Live groups keep KV and prefixes in the same pages."""
    limits = replace(plan.settings.limits, page_size=plan.traffic.page_size or _PAGE_SIZE)
    return plan._replace(settings=replace(plan.settings, limits=limits))


def write_mix(path: Path, num_requests: int) -> Path:
    """Conversations with short answers, Poisson: a trace for who has none.  Mooncake's format."""
    rng, at_ms, lines = random.Random("mix"), 0.0, []
    for number in range(num_requests):
        at_ms += rng.expovariate(1e-3)
        pages = [rng.randrange(12)]  # who belongs to which of some prefixes
        pages += [1000 * number + k for k in range(1, 1 + int(rng.lognormvariate(1.5, 1.0)))]
        length = 512 * len(pages) + rng.randrange(512)
        output = max(10, min(400, round(rng.lognormvariate(4.2, 0.6))))
        told = {"timestamp": at_ms, "input_length": length, "output_length": output}
        lines.append(json.dumps(told | {"hash_ids": pages}))
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Measure, and print."""
    given = parse()
    if given.real:
        _real(given)
        return
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        planned = make_plans(given, Path(folder))
        for n, plan in enumerate(planned):
            print(
                f"{n + 1} of {len(planned)}: {plan} seed {plan.seed}", file=sys.stderr, flush=True
            )
            pairs.append(measure(plan, ("round_robin",) if given.pin else ()))
            print(f"  {pairs[-1]}", file=sys.stderr, flush=True)
    tell(pairs, given.time_scale)


def _real(given: argparse.Namespace) -> None:
    """Real torch workers, at two groups."""
    pairs: list[RealPair] = []
    scale = Scale(given.prompt_parts, given.output_parts, given.rate)
    with tempfile.TemporaryDirectory() as folder:
        given.trace = given.trace or [str(write_mix(Path(folder) / "mix.jsonl", 240))]
        for trace in given.trace:
            traffic = scale.shorten(read_trace(Path(trace)).first(given.max_requests))
            for seed, method in itertools.product(range(given.seeds), given.methods.split(",")):
                known = pairs[-1].step if pairs else None
                pairs.append(measure_real(traffic, method, seed, scale.rate, known))
                print(pairs[-1], file=sys.stderr, flush=True)
    print(real_table(pairs))
    rows = [asdict(pair) for pair in pairs]
    print(json.dumps({"real": rows, **scale._asdict(), "machine": machine_facts()}))


def tell(pairs: Sequence[Pair], time_scale: float) -> None:
    """Print the table, what is not in it and why, and all of it as JSON."""
    rows = make_rows(pair for pair in pairs if pair.is_valid)
    print(table(rows) if rows else "no run was valid")
    print(f"\n{TIE_RULE}")
    invalid = [pair for pair in pairs if not pair.is_valid]
    for pair in invalid:
        run = f"{pair.trace}, {pair.dp_size} groups, {pair.method}, seed {pair.seed}"
        print(f"NOT VALID, LEFT OUT: {run}: {'; '.join(pair.faults)}")
    if invalid:
        left = f"{len(invalid)} of {len(pairs)} runs are in no figure above"
        print(f"{left}.  A larger --time-scale makes steps longer.")
    told = {
        "rows": [row._asdict() for row in rows],
        "agreement": agreement(rows),
        "runs": [asdict(pair) | {"faults": pair.faults} for pair in pairs],
        "is_valid": not invalid,
        "time_scale": time_scale,
        "machine": machine_facts(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
