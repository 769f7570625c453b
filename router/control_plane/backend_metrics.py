"""Metrics that only backends have."""

from __future__ import annotations

from prometheus_client.core import GaugeMetricFamily, Metric

from router.backends.readings.reading import Condition
from router.control_plane.figures import GroupFigures


def conditions(figures: list[GroupFigures]) -> Metric:
    """Which of a backend's readings are not used, and why."""
    gauge = GaugeMetricFamily(
        "levelhead_reading_condition",
        "1 while a backend's own figures are not used, for that reason.",
        labels=("group", "condition"),
    )
    for group in figures:
        for each in Condition if group.entry.is_backend else ():
            gauge.add_metric((str(group.entry.dp_rank), each.value), float(group.condition is each))
    return gauge
