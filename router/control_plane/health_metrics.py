"""Whom front doors avoid, each by its own breakers, and whom they send less because it is new."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from balancer.breaker import BreakerState


def health_metrics(doors: list[dict[str, Any]], ranks: Collection[int]) -> Iterator[Metric]:
    """By front door: they do not share what they have found out.  ranks: groups there are."""
    state = GaugeMetricFamily(
        "levelhead_breaker_state",
        "Of a backend: 0 if its breaker is closed, 1 open (it is avoided), 2 half-open (it is "
        "tried); each front door has its own.",
        labels=("front_door", "group"),
    )
    changes = CounterMetricFamily(
        "levelhead_breaker_transitions",
        "Times that a breaker became open, half_open or closed.",
        labels=("front_door", "state"),
    )
    last_resorts = CounterMetricFamily(
        "levelhead_breaker_last_resorts",
        "Requests sent past an open breaker, because nobody else could take them.",
        labels=("front_door",),
    )
    factor = GaugeMetricFamily(
        "levelhead_slow_start_factor",
        "What the load of a group that serves is multiplied by: more than 1 for a newcomer.",
        labels=("front_door", "group"),
    )
    for door in doors:
        slot = str(door["slot"])
        for dp_rank, value in _of_groups(door["breaker_states"], ranks):
            state.add_metric((slot, str(dp_rank)), value)
        for dp_rank, value in _of_groups(door["slow_start_factors"], ranks):
            factor.add_metric((slot, str(dp_rank)), value)
        for each in BreakerState:
            changes.add_metric((slot, each.value), door["breaker_changes"].get(each.value, 0))
        last_resorts.add_metric((slot,), door["last_resorts"])
    yield from (state, changes, last_resorts, factor)


def _of_groups(figures: dict[str, float], ranks: Collection[int]) -> Iterator[tuple[str, float]]:
    """Those of groups that there are: a front door may not have seen yet that one has gone."""
    return ((dp_rank, value) for dp_rank, value in figures.items() if int(dp_rank) in ranks)
