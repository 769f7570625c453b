"""Rows and the table of the barrier's benchmark: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from benchmarks.barrier_share import Share


@dataclass
class Run:
    """What one instance did."""

    gaps_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0
    shares: list[Share] = field(default_factory=list)


class Row(NamedTuple):
    """One way at one chunk size."""

    way: str
    chunk: int
    itl_p50_ms: float
    itl_p99_ms: float
    itl_max_ms: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    decoded_per_s: float
    prompts: int
    failed: int
    idle_most: float
    idle_mean: float
    token_ratio: float
    step_ms: float


def make_row(way: str, chunk: int, runs: Sequence[Run]) -> Row:
    """Of all repeats: gaps and first tokens together, shares on average."""
    gaps_ms = sorted(1e3 * gap for run in runs for gap in run.gaps_s)
    ttft_ms = sorted(1e3 * ttft for run in runs for ttft in run.ttft_s)
    shares = [share for run in runs for share in run.shares]
    return Row(
        way,
        chunk,
        percentile(gaps_ms, 50),
        percentile(gaps_ms, 99),
        percentile(gaps_ms, 100),
        percentile(ttft_ms, 50),
        percentile(ttft_ms, 99),
        len(gaps_ms) / sum(run.seconds for run in runs),
        len(ttft_ms),
        sum(run.failed for run in runs),
        fmean(max(share.idle.values()) for share in shares),
        fmean(fmean(share.idle.values()) for share in shares),
        fmean(share.token_ratio for share in shares),
        fmean(share.mean_step_ms for share in shares),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank, of sorted values; 0 of none."""
    return values[-(-len(values) * percent // 100) - 1] if values else 0.0


def table(rows: Sequence[Row]) -> str:
    """In markdown."""
    lines = [
        "| way | chunk | between tokens p50, p99, max ms | TTFT of prompts p50, p99 ms | decoded/s "
        "| idle: most, mean | max/mean | step ms |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        cells = (
            f"`{row.way}`",
            str(row.chunk),
            f"{row.itl_p50_ms:.0f}, {row.itl_p99_ms:.0f}, {row.itl_max_ms:.0f}",
            f"{row.ttft_p50_ms:.0f}, {row.ttft_p99_ms:.0f}",
            f"{row.decoded_per_s:.1f}",
            f"{100 * row.idle_most:.0f} %, {100 * row.idle_mean:.0f} %",
            f"{row.token_ratio:.2f}",
            f"{row.step_ms:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
