"""
What a window says of a proxy, and how repeated windows become rows and tables.

Rows hold medians over the repeats.  `vs_nginx` is the median of the ratios
taken within each repeat, so that what disturbs a whole repeat cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

from benchmarks.cases import Case
from benchmarks.load import Timings

YARDSTICK = "nginx"
_TITLES = (
    f"{'':13} {'':>8} | {'CPU us/request':^23} | {'':>8} | {'latency us':^17} | "
    f"{'first byte us':^15} | {'RSS':>4} | {'CPU us/request':>13}",
    f"{'proxy':13} {'requests':>8} | {'min':>7} {'median':>7} {'x nginx':>7} | {'/s':>8} | "
    f"{'p50':>8} {'p99':>8} | {'p50':>7} {'p99':>7} | {'MiB':>4} | {'load':>5} {'workers':>7}",
)

Row = dict[str, Any]  # one line of the table and of the JSON; see make_row


@dataclass(frozen=True)
class Sample:
    """One window of one case through one proxy."""

    num_requests: int
    cpu_us_per_request: float
    requests_per_s: float
    p50_us: float
    p99_us: float
    first_p50_us: float
    first_p99_us: float
    rss_mib: float
    load_us_per_request: float  # CPU of the load generator
    workers_us_per_request: float  # CPU of the mock workers


@dataclass(frozen=True)
class CpuSpent:
    """CPU time in nanoseconds, by who spent it."""

    proxy_ns: int
    load_ns: int
    workers_ns: int

    def __sub__(self, earlier: CpuSpent) -> CpuSpent:
        return CpuSpent(
            self.proxy_ns - earlier.proxy_ns,
            self.load_ns - earlier.load_ns,
            self.workers_ns - earlier.workers_ns,
        )


def sample(timings: Timings, spent: CpuSpent, rss_bytes: int) -> Sample:
    """Reduce a window to its figures."""
    num_requests = len(timings.total_ns)
    total_ns, first_ns = sorted(timings.total_ns), sorted(timings.first_ns)
    return Sample(
        num_requests=num_requests,
        cpu_us_per_request=spent.proxy_ns / num_requests / 1e3,
        requests_per_s=num_requests / timings.elapsed_ns * 1e9,
        p50_us=_percentile_us(total_ns, 50),
        p99_us=_percentile_us(total_ns, 99),
        first_p50_us=_percentile_us(first_ns, 50),
        first_p99_us=_percentile_us(first_ns, 99),
        rss_mib=rss_bytes / 2**20,
        load_us_per_request=spent.load_ns / num_requests / 1e3,
        workers_us_per_request=spent.workers_ns / num_requests / 1e3,
    )


def _percentile_us(sorted_ns: Sequence[int], percent: int) -> float:
    """Nearest-rank percentile."""
    rank = -(-len(sorted_ns) * percent // 100)
    return sorted_ns[rank - 1] / 1e3


def make_row(proxy: str, case: Case, repeats: Sequence[Sample], yardstick: Sequence[Sample]) -> Row:
    """The medians of a proxy in a case; yardstick holds nginx's samples of the same repeats."""
    ratios = [
        mine.cpu_us_per_request / its.cpu_us_per_request
        for mine, its in zip(repeats, yardstick, strict=False)  # none if nginx is missing
    ]
    medians = {
        field.name: round(median(getattr(one, field.name) for one in repeats), 1)
        for field in fields(Sample)
    }
    return {
        "proxy": proxy,
        "case": case.name,
        **medians,
        "repeats": len(repeats),
        "num_requests": sum(one.num_requests for one in repeats),
        "cpu_us_per_request_min": round(min(one.cpu_us_per_request for one in repeats), 1),
        "vs_nginx": round(median(ratios), 2) if any(ratios) else None,
    }


def table(case: Case, rows: Sequence[Row]) -> str:
    """The rows of one case, to be read by people."""
    return "\n".join((f"\n{case.name}: {case.describe()}", *_TITLES, *map(_line, rows)))


def _line(row: Row) -> str:
    ratio = "-" if row["vs_nginx"] is None else f"{row['vs_nginx']:.2f}"
    return (
        f"{row['proxy']:13} {row['num_requests']:8} | {row['cpu_us_per_request_min']:7.1f} "
        f"{row['cpu_us_per_request']:7.1f} {ratio:>7} | {row['requests_per_s']:8.0f} | "
        f"{row['p50_us']:8.0f} {row['p99_us']:8.0f} | {row['first_p50_us']:7.0f} "
        f"{row['first_p99_us']:7.0f} | {row['rss_mib']:4.0f} | {row['load_us_per_request']:5.0f} "
        f"{row['workers_us_per_request']:7.0f}"
    )
