"""The result of a chaos run: one JSON object, and what it means for the exit status."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from shm.group_table import GroupEntry
from tests.faults.chaos.injector import Struck
from tests.faults.chaos.judgement import Outcome, Verdict
from tests.faults.chaos.plan import Act
from tests.faults.chaos.watch import Watch, is_ready

_NUM_FATAL = 7


@dataclass(frozen=True)
class Report:
    """What is printed.  The last seven must be zero."""

    seed: int
    kills: int
    requests: int
    completed: int
    errored: int
    lost: int
    double_counted: int
    hung: int
    ledger_residue_tokens: int
    leaked_pages: int
    leaked_segments: int
    leaked_processes: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing that must not happen did; traffic there must have been."""
        fatal = [getattr(self, field.name) for field in fields(self)[-_NUM_FATAL:]]
        return not any(fatal) and self.completed > 0 and self.kills > 0

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def tally(verdicts: Iterable[Verdict]) -> Counter[Outcome]:
    """How many requests came to which end."""
    return Counter(verdict.outcome for verdict in verdicts)


def times_of_leaders(struck: Sequence[Struck], watch: Watch) -> dict[str, list[float]]:
    """Seconds from a ready leader's kill to its exclusion, its recovery, the next publisher."""
    times: dict[str, list[float]] = {"exclusion": [], "recovery": [], "takeover": []}
    for each in struck:
        if each.act is not Act.KILL or not each.was_ready:
            continue
        excluded_s = watch.first_s(each.at_s, _out(each))
        ready_s = watch.first_s(each.at_s, _back(each))
        term_s = next((at_s for at_s, _ in watch.terms if at_s >= each.at_s), None)
        if excluded_s is not None:
            times["exclusion"].append(excluded_s - each.at_s)
        if ready_s is not None:
            times["recovery"].append(ready_s - each.at_s)
        if each.was_publisher and term_s is not None:
            times["takeover"].append(term_s - each.at_s)
    return times


def _out(struck: Struck) -> Callable[[GroupEntry], bool]:
    def is_out(entry: GroupEntry) -> bool:
        gone = entry.epoch != struck.epoch or not is_ready(entry)
        return entry.dp_rank == struck.process.number and gone

    return is_out


def _back(struck: Struck) -> Callable[[GroupEntry], bool]:
    def is_back(entry: GroupEntry) -> bool:
        returned = entry.epoch > struck.epoch and is_ready(entry)
        return entry.dp_rank == struck.process.number and returned

    return is_back


def described(values: Sequence[float]) -> str:
    """Median and longest, for people."""
    if not values:
        return "none"
    return (
        f"median {statistics.median(values):.2f} s, longest {max(values):.2f} s (n={len(values)})"
    )
