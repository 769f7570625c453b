"""
The page of the metrics, made of them: `python -m deploy.metrics_page` writes docs/metrics.md.

Names, labels and meanings come from the families that a scrape is made of, so the page cannot
tell of others.  What is added here is what a scrape does not say: how many values a label can
have, and what other people call the same figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

from prometheus_client.core import HistogramMetricFamily, Metric

from deploy.metric_bounds import LABELS, Bound, Size, factors, num_buckets
from deploy.metric_names import ELSEWHERE
from router.control_plane.backend_metrics import source_metrics
from router.control_plane.barrier_metrics import barrier_metrics
from router.control_plane.group_metrics import group_metrics, group_totals
from router.control_plane.kv_events.metrics import kv_metrics
from router.control_plane.metrics import front_door_metrics

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
LARGE = Size(num_groups=256, num_front_doors=4)
_INTRODUCTION = """\
# Metrics

Made by `make generated` from the code that answers `GET /metrics`; a test keeps them in step.
Histograms have `_bucket`, `_sum` and `_count`. *Series* is how many there can be at most: **G** DP
groups (`--dp-size`, or `--max-groups` with backends), **F** front doors, **S** sources of backends,
all set at the start, and **H** different HTTP statuses. What has gone has no series any more, and a
dead group has its state, epoch and model alone. What has not happened yet is 0, and not absent.

The dashboard, recording rules and alerts over these are in [deploy/](../deploy/README.md).
"""
_TABLE = "| metric | type | labels | series | meaning |\n|---|---|---|---|---|\n"
_NAMES = """\
## The same figures elsewhere

Gateway API means the model server protocol of its inference extension. A figure of a whole instance
is the sum over `group`; for KV utilization the mean, and for steps of DP attention any group's.

| ours | SGLang | vLLM | Gateway API |
|---|---|---|---|
"""


def sections() -> dict[str, list[Metric]]:
    """Every family there is, without a sample, by where it comes from."""
    return {
        "DP groups": [*group_metrics([], [])],
        "What requests amounted to": [*group_totals({})],
        "The barrier of DP attention": [*barrier_metrics({})],
        "Front doors": [*front_door_metrics([], ())],
        "Sources of backends": [*source_metrics(())],
        "KV events of backends": [*kv_metrics(None)],
    }


def page() -> str:
    """The whole page, as Markdown."""
    tables = (f"## {title}\n\n{_table(metrics)}" for title, metrics in sections().items())
    return "\n".join((_INTRODUCTION, *tables, _labels(), _elsewhere()))


def full_name(metric: Metric) -> str:
    """As it is scraped: counters end in `_total`."""
    return metric.name + ("_total" if metric.type == "counter" else "")


def max_series(size: Size, families: Iterable[Metric] | None = None) -> int:
    """As many series as an instance of that size can have; families: all there are."""
    if families is None:
        families = (metric for metrics in sections().values() for metric in metrics)
    return sum(prod(each.of(size) for each in _factors(metric)) for metric in families)


def _table(metrics: Iterable[Metric]) -> str:
    return _TABLE + "".join(_row(metric) for metric in metrics)


def _row(metric: Metric) -> str:
    found = _factors(metric)
    labels = ", ".join(_label_names(metric))
    series = " · ".join(map(str, found)) or "1"
    name, meaning = full_name(metric), metric.documentation
    return f"| `{name}` | {metric.type} | {labels} | {series} | {meaning} |\n"


def _factors(metric: Metric) -> list[Bound]:
    is_histogram = isinstance(metric, HistogramMetricFamily)
    buckets = num_buckets(metric.name) if is_histogram else 0
    return factors(metric.name, _label_names(metric), buckets)


def _label_names(metric: Metric) -> tuple[str, ...]:
    """A family without samples knows its labels, and tells nobody."""
    return tuple(vars(metric)["_labelnames"])


def _labels() -> str:
    rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in LABELS.items())
    return (
        f"## Labels\n\n| label | its values |\n|---|---|\n{rows}\n"
        f"An instance of {LARGE.num_groups} groups and {LARGE.num_front_doors} front doors has at "
        f"most {max_series(LARGE):,} series.\n"
    )


def _elsewhere() -> str:
    rows = (f"| `{ours}` | {' | '.join(map(_code, theirs))} |\n" for ours, theirs in ELSEWHERE)
    return _NAMES + "".join(rows)


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


if __name__ == "__main__":
    PAGE.write_text(page())
