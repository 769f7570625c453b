"""A chaos run: an instance, traffic, faults, the audit, and what is left in the end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.e2e.instance import RunningInstance
from tests.faults.chaos.audit import Audit, Violation
from tests.faults.chaos.cases import Case, learn_cases
from tests.faults.chaos.injector import Injector
from tests.faults.chaos.judgement import Outcome, Verdict, judge
from tests.faults.chaos.plan import Fault, make_plan
from tests.faults.chaos.processes import run_folder_of
from tests.faults.chaos.quiet import Residue, leaks, wait_for_groups, wait_for_quiet
from tests.faults.chaos.report import Report, described, tally, times_of_leaders
from tests.faults.chaos.traffic import Traffic
from tests.faults.chaos.watch import Watch

_MODEL = "tiny"
_NUM_GROUPS, _NUM_DOORS = 3, 2
_NUM_PROCESSES = _NUM_GROUPS + _NUM_DOORS + 1
_SHOWN = 12
_ALARMING = ("Traceback", " CRITICAL ", "LedgerBroken", "AssertionError")


class Found(NamedTuple):
    """All that a run has to say, before it is summed up."""

    verdicts: list[Verdict]
    violations: list[Violation]
    residue: Residue
    injector: Injector


def start_instance(model: Path, method: str) -> RunningInstance:
    """The instance that is going to suffer."""
    return RunningInstance(
        *("--model", str(model), "--served-model-name", _MODEL, "--dtype", "float32"),
        *("--dp-size", str(_NUM_GROUPS), "--front-doors", str(_NUM_DOORS)),
        *("--threads-per-rank", "1", "--drain-timeout-s", "10", "--load-balance-method", method),
    )


def run_chaos(
    model: Path,
    seed: int,
    seconds: float,
    log: Path | None = None,
    method: str = "minimum_tokens",
) -> Report:
    """Run it; everything but the report goes to standard error."""
    began_s = time.monotonic()

    def clock_s() -> float:
        return time.monotonic() - began_s

    instance = start_instance(model, method)
    try:
        run_dir = run_folder_of(instance.process.pid)
        port = int(instance.url.rpartition(":")[2])
        with Watch(instance.name, instance.process.pid, port, run_dir, clock_s) as watch:
            cases = learn_cases(instance.url, _MODEL)
            say(f"{clock_s():7.2f} s  ready: {len(cases)} kinds of request are known")
            injector = Injector(watch, instance.url, clock_s)
            with Audit(instance.name) as audit:
                traffic = Traffic(instance.url, cases, seed, clock_s)
                asyncio.run(_suffer(traffic, injector, make_plan(seed, seconds), seconds))
                injector.continue_all()
                say(f"{clock_s():7.2f} s  traffic and faults have ended")
                all_back = wait_for_groups(watch, _NUM_GROUPS, _NUM_PROCESSES)
                say(f"{clock_s():7.2f} s  {'all are' if all_back else 'NOT all are'} back")
                residue = wait_for_quiet(instance, _NUM_GROUPS, _NUM_DOORS)
                say(f"{clock_s():7.2f} s  quiet: {residue}")
            verdicts = _verdicts(traffic, cases, watch)
            found = Found(verdicts, audit.book.violations, residue, injector)
            ever = watch.ever
            _describe(found, watch, audit.book.num_looks)
    finally:
        status = instance.stop()
    say(f"{clock_s():7.2f} s  stopped with status {status}")
    _alarm(instance.output)
    if log is not None:
        log.write_text("".join(instance.output))
    return _report(seed, found, *leaks(instance, run_dir, ever))


async def _suffer(traffic: Traffic, injector: Injector, plan: list[Fault], seconds: float) -> None:
    await asyncio.gather(traffic.run(seconds), injector.run(plan, seconds))


def _verdicts(traffic: Traffic, cases: Sequence[Case], watch: Watch) -> list[Verdict]:
    doors, verdicts = watch.doors, []
    for ask, reading in traffic.readings:
        verdict = judge(reading, cases[ask.case].expected, doors)
        verdicts.append(verdict)
        if verdict.outcome in (Outcome.LOST, Outcome.HUNG):
            kind = "stream" if ask.is_stream else "whole"
            say(
                f"{verdict.outcome.upper()}: {ask.path} case {ask.case} {kind} "
                f"{reading.began_s:.2f}-{reading.ended_s:.2f} s: {verdict.why}"
            )
    return verdicts


def _describe(found: Found, watch: Watch, num_looks: int) -> None:
    errors = Counter(v.why for v in found.verdicts if v.outcome is Outcome.ERRORED)
    for why, count in errors.most_common(_SHOWN):
        say(f"  errored {count:4}  {why}")
    for violation in found.violations[:_SHOWN]:
        say(f"DOUBLE COUNTED: {violation}")
    for name, values in times_of_leaders(found.injector.struck, watch).items():
        say(f"  {name}: {described(values)}")
    abandoned = tally(found.verdicts)[Outcome.ABANDONED]
    say(f"  abandoned {abandoned}, {dict(found.injector.counts)}, terms {len(watch.terms)}")
    say(f"  the law was checked {num_looks} times; nobody listened for {_closed_s(watch):.2f} s")


def _closed_s(watch: Watch) -> float:
    return sum(end_s - begin_s for begin_s, end_s in watch.closed_s)


def _report(seed: int, found: Found, segments: int, processes: int) -> Report:
    tallied = tally(found.verdicts)
    return Report(
        seed=seed,
        kills=found.injector.kills,
        requests=len(found.verdicts),
        completed=tallied[Outcome.COMPLETED],
        errored=tallied[Outcome.ERRORED],
        lost=tallied[Outcome.LOST],
        double_counted=len(found.violations),
        hung=tallied[Outcome.HUNG],
        ledger_residue_tokens=found.residue.ledger_tokens,
        leaked_pages=found.residue.pages,
        leaked_segments=segments,
        leaked_processes=processes,
    )


def _alarm(output: Sequence[str]) -> None:
    """Show what the instance's own log says of broken things."""
    alarming = [line for line in output if any(word in line for word in _ALARMING)]
    for line in alarming[:_SHOWN]:
        say(f"LOG: {line.rstrip()}")


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
