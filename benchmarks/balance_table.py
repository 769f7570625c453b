"""Live and simulated figures side by side, and whether they put methods in the same order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Protocol

TIE = 0.01
TIE_RULE = (
    f"Two methods are tied if their slow-downs differ by less than {TIE} both live and simulated, "
    "or if\nthe two sides do not put them in the same order and their difference is, "
    "on one side, within the seeds' spread."
)


class Measured(Protocol):
    """What is asked of a pair of runs; see bench_balance.Pair."""

    @property
    def trace(self) -> str: ...  # noqa: D102
    @property
    def dp_size(self) -> int: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def live_slowdown(self) -> float: ...  # noqa: D102
    @property
    def sim_slowdown(self) -> float: ...  # noqa: D102
    @property
    def live_kv(self) -> float: ...  # noqa: D102
    @property
    def sim_kv(self) -> float: ...  # noqa: D102
    @property
    def late_share(self) -> float: ...  # noqa: D102
    @property
    def late_ms(self) -> float: ...  # noqa: D102
    @property
    def gap_share(self) -> float: ...  # noqa: D102


class Row(NamedTuple):
    """
    A method in a setting: means over seeds.

    spread: largest less least slow-down over the seeds, of the side where that is more.
    """

    trace: str
    dp_size: int
    method: str
    seeds: int
    live_slowdown: float
    sim_slowdown: float
    spread: float
    live_kv: float
    sim_kv: float
    live_over_sim: float
    late_share: float
    late_ms: float
    gap_share: float


def make_rows(pairs: Iterable[Measured]) -> list[Row]:
    """A row for each method in each setting, the best live slow-down first."""
    seeds: dict[tuple[str, int, str], list[Measured]] = {}
    for pair in pairs:
        seeds.setdefault((pair.trace, pair.dp_size, pair.method), []).append(pair)
    rows = [_row(*key, runs) for key, runs in seeds.items()]
    return sorted(rows, key=lambda row: (row.trace, row.dp_size, row.live_slowdown))


def _row(trace: str, dp_size: int, method: str, runs: Sequence[Measured]) -> Row:
    live = [one.live_slowdown for one in runs]
    simulated = [one.sim_slowdown for one in runs]
    live_kv, sim_kv = fmean(one.live_kv for one in runs), fmean(one.sim_kv for one in runs)
    return Row(
        trace,
        dp_size,
        method,
        len(runs),
        fmean(live),
        fmean(simulated),
        max(max(live) - min(live), max(simulated) - min(simulated)),
        live_kv,
        sim_kv,
        live_kv / sim_kv,
        fmean(one.late_share for one in runs),
        fmean(one.late_ms for one in runs),
        fmean(one.gap_share for one in runs),
    )


def agreement(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each setting: pairs of methods in the same order, in another, and tied."""
    told = []
    for setting, found in itertools.groupby(rows, key=lambda row: (row.trace, row.dp_size)):
        verdicts = [(one, two, _verdict(one, two)) for one, two in itertools.combinations(found, 2)]
        wrong = [f"{one.method}, {two.method}" for one, two, said in verdicts if said == "differs"]
        counts = [said for _, _, said in verdicts]
        told.append(
            {
                "trace": setting[0],
                "dp_size": setting[1],
                "same": counts.count("same"),
                "tied": counts.count("tied"),
                "differs": wrong,
            }
        )
    return told


def _verdict(one: Row, two: Row) -> str:
    """As TIE_RULE says; the spread of one seed is 0."""
    live, simulated = (
        two.live_slowdown - one.live_slowdown,
        two.sim_slowdown - one.sim_slowdown,
    )
    if max(abs(live), abs(simulated)) < TIE:
        return "tied"
    if live * simulated > 0:
        return "same"
    spread = max(one.spread, two.spread)
    return "tied" if min(abs(live), abs(simulated)) <= spread else "differs"


def table(rows: Sequence[Row]) -> str:
    """A block for each setting."""
    blocks = []
    verdicts = agreement(rows)
    settings = itertools.groupby(rows, key=lambda row: (row.trace, row.dp_size))
    for (setting, found), said in zip(settings, verdicts, strict=True):
        lines = [f"{setting[0]}, {setting[1]} DP groups"]
        lines.append(
            f"{'':16} {'':4} {'slowdown':^17}  {'':7}  {'KV max/mean':^15}  {'':8}  "
            f"{'late rounds':^14}  {'gap':>5}"
        )
        lines.append(
            f"{'method':16} {'runs':>4} {'live':>8} {'sim':>8}  {'spread':>7}  "
            f"{'live':>7} {'sim':>7}  {'live/sim':>8}  {'share':>6} {'ms':>7}  {'share':>5}"
        )
        lines += map(_line, found)
        order = ", ".join(said["differs"]) or "none"
        lines.append(
            f"pairs of methods in the same order: {said['same']}, tied: {said['tied']}, "
            f"in another order: {order}"
        )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _line(row: Row) -> str:
    return (
        f"{row.method:16} {row.seeds:4} {row.live_slowdown:8.4f} {row.sim_slowdown:8.4f}  "
        f"{row.spread:7.4f}  {row.live_kv:7.3f} {row.sim_kv:7.3f}  {row.live_over_sim:8.3f}  "
        f"{row.late_share:6.1%} {row.late_ms:7.1f}  {row.gap_share:5.0%}"
    )
