"""Metrics that only backends have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from router.backends.readings.reading import Condition
from router.backends.standing import Standing
from router.control_plane.figures import GroupFigures

_SOURCE = ("source",)


def conditions(figures: list[GroupFigures]) -> Metric:
    """Which of a backend's readings are not used, and why."""
    gauge = GaugeMetricFamily(
        "levelhead_reading_condition",
        "1 while a backend's own figures are not used because they are missing, malformed, "
        "always_zero or frozen.",
        labels=("group", "condition"),
    )
    for group in figures:
        for each in Condition if group.entry.is_backend else ():
            gauge.add_metric((str(group.entry.dp_rank), each.value), float(group.condition is each))
    return gauge


def source_metrics(standings: Sequence[Standing]) -> Iterator[Metric]:
    """What each source of backends tells, and whether that is what it says now."""
    good = GaugeMetricFamily(
        "levelhead_backend_source_good",
        "1 if what a source of backends told last is what it says now; 0 while it cannot be "
        "used, and what it told last stands.",
        labels=_SOURCE,
    )
    backends = GaugeMetricFamily(
        "levelhead_backend_source_backends", "Backends that the source told of.", labels=_SOURCE
    )
    changed = GaugeMetricFamily(
        "levelhead_backend_source_changed_timestamp_seconds",
        "When the source told of others than before, last.",
        labels=_SOURCE,
    )
    for each in standings:
        label = (each.name,)
        good.add_metric(label, float(each.is_good))
        backends.add_metric(label, float(len(each.told or ())))
        if each.changed_s is not None:
            changed.add_metric(label, each.changed_s)
    yield from (good, backends, changed)
