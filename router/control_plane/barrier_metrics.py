"""
Metrics of the barrier: what groups of DP attention lose by waiting for each other.

Names are SGLang's where it has them (`sglang:dp_attention_*`), after our prefix.  Groups that
do not wait for each other have no such series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from router.control_plane.barrier_figures import QUANTITIES, BarrierFigures
from router.control_plane.totals import Totals

_PREFIX = "levelhead_dp_attention"
_GROUP = ("group",)

# Of each quantity: name of its sums, of its ratio, and what it is.
_QUANTITIES = {
    "tokens": ("tokens", "token", "Tokens computed"),
    "requests": ("requests", "request", "Requests in the step"),
    "kv_tokens": ("kv_tokens", "kv_token", "Tokens whose keys and values are read"),
    "attention_pairs": (
        "attention_pairs",
        "attention_pair",
        "Pairs of a new token and one that it sees",
    ),
}


def barrier_metrics(totals: Mapping[int, Totals]) -> Iterator[Metric]:
    """Nothing, unless a leader told of a barrier."""
    told = next((each.barrier for each in totals.values() if each.barrier is not None), None)
    yield from _times(told)
    for index, name in enumerate(QUANTITIES):
        yield from _quantity(name, index, told)


def _times(told: BarrierFigures | None) -> Iterator[Metric]:
    steps = CounterMetricFamily(
        f"{_PREFIX}_steps",
        "With DP attention: steps that all groups computed together. Without it none of these.",
        labels=_GROUP,
    )
    idle = CounterMetricFamily(
        f"{_PREFIX}_idle_steps", "Of those, joined with an empty batch.", labels=_GROUP
    )
    seconds = CounterMetricFamily(
        f"{_PREFIX}_step_seconds",
        "Time that these steps took, from the gather that began each to its samples; each is "
        "counted in the round after it.",
        labels=_GROUP,
    )
    waits = HistogramMetricFamily(
        f"{_PREFIX}_sync_wait_seconds",
        "Of each step: time in collectives, less that of the rank that spent least there; of "
        "several ranks in a group the mean of those that tell it; on a GPU, of the host.",
        labels=_GROUP,
    )
    for dp_rank, group in enumerate(told.groups if told else ()):
        labels = (str(dp_rank),)
        steps.add_metric(labels, told.num_steps if told else 0)
        idle.add_metric(labels, group.num_idle_steps)
        seconds.add_metric(labels, group.step_s)
        waits.add_metric(labels, group.waited_s.buckets(), group.waited_s.total)
    yield from (steps, idle, seconds, waits)


def _quantity(name: str, index: int, told: BarrierFigures | None) -> Iterator[Metric]:
    sums, singular, text = _QUANTITIES[name]
    by_group = CounterMetricFamily(
        f"{_PREFIX}_{sums}", f"{text}, summed over steps.", labels=_GROUP
    )
    largest = CounterMetricFamily(
        f"{_PREFIX}_max_{sums}", f"{text}: the largest of the groups', summed over steps."
    )
    ratio = HistogramMetricFamily(
        f"{_PREFIX}_{singular}_imbalance_ratio",
        f"{text}: largest over mean of the groups', of each step in which any has some; 1 is "
        "level, the number of groups is one that has it all.",
    )
    if told is not None:
        quantity = told.quantities[index]
        for dp_rank, amount in enumerate(quantity.by_group):
            by_group.add_metric((str(dp_rank),), amount)
        largest.add_metric((), quantity.largest)
        ratio.add_metric((), quantity.ratio.buckets(), quantity.ratio.total)
    yield from (by_group, largest, ratio)
