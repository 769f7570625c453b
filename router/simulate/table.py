"""The runs as a table for people: means over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from router.simulate.runs import Run

_FIGURES = (
    *("slowdown", "kv_max_over_mean", "barrier_idle", "goodput", "prefix_hit_rate"),
    *("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "completed"),
)
_HEADS = ("method", "slowdown", "KV max/mean", "idle", "goodput", "prefix hits")
_TIMES = ("TTFT p50 s", "p99", "TPOT p50 ms", "p99", "completed")


class Row(NamedTuple):
    """One method in one setting, averaged over seeds; None where no seed has a figure."""

    setting: tuple[str, str, int, float | None]
    """Trace, mode, DP groups, load."""
    method: str
    figures: dict[str, float | None]


def rows(runs: Iterable[Run]) -> list[Row]:
    """Rows in the order of the runs."""
    seeds: dict[tuple[Any, str], list[dict[str, Any]]] = {}
    for one in runs:
        told = one.as_dict()
        setting = (told["trace"], told["mode"], told["dp_size"], told["load"])
        seeds.setdefault((setting, told["method"]), []).append(told)
    return [
        Row(setting, method, {name: _mean([one[name] for one in told]) for name in _FIGURES})
        for (setting, method), told in seeds.items()
    ]


def table(runs: Sequence[Run]) -> str:
    """A block for each setting, the best slow-down first."""
    blocks = []
    for setting, found in itertools.groupby(rows(runs), key=lambda row: row.setting):
        trace, mode, dp_size, load = setting
        told = "more than they can do" if load is None else f"{load:.0%} of KV"
        cells = [(*_HEADS, *_TIMES), *map(_cells, sorted(found, key=_slowdown))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                _aligned(cell, width, n)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        blocks.append(f"{trace}, {mode}, {dp_size} DP groups, load: {told}\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _slowdown(row: Row) -> float:
    return row.figures["slowdown"] or 0.0


def _cells(row: Row) -> tuple[str, ...]:
    figures = row.figures
    ms = {
        name: None if (s := figures[name]) is None else 1e3 * s
        for name in ("tpot_p50_s", "tpot_p99_s")
    }
    return (
        row.method,
        _text(figures["slowdown"], ".4f"),
        _text(figures["kv_max_over_mean"], ".3f"),
        *(_text(figures[name], ".1%") for name in ("barrier_idle", "goodput", "prefix_hit_rate")),
        *(_text(figures[name], ".2f") for name in ("ttft_p50_s", "ttft_p99_s")),
        *(_text(value, ".1f") for value in ms.values()),
        _text(figures["completed"], ".0f"),
    )


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)
