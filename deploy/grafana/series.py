"""What a Prometheus answers over a time, as the dashboard would ask it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import httpx

from deploy.grafana.panel import Query

_VARIABLE = re.compile(r"\$(group|model)\b")
_RANGE_S, _STEP_S = 60.0, 1.0  # of who asks for one instant
_LABEL = re.compile(r"\{\{(\w+)\}\}")
_NUM_POINTS = 180
_TIMEOUT_S = 30.0
_MS_PER_S = 1e3


class Range(NamedTuple):
    """From when to when, in seconds since the epoch."""

    begin_s: float
    end_s: float

    @property
    def step_s(self) -> float:
        """Between two points."""
        return max(1.0, (self.end_s - self.begin_s) / _NUM_POINTS)


class Series(NamedTuple):
    """One line: what is no number is left out."""

    name: str
    times_s: list[float]
    values: list[float]


def expression(
    text: str, instance: str = ".*", range_s: float = _RANGE_S, step_s: float = _STEP_S
) -> str:
    """With every other variable as it is at first: everything."""
    named = _VARIABLE.sub(".*", text.replace("$instance", instance))
    windows = {
        "$__rate_interval": "15s",
        "$__range": f"{range_s * _MS_PER_S:.0f}ms",
        "$__interval": f"{step_s * _MS_PER_S:.0f}ms",
    }
    for name, window in windows.items():
        named = named.replace(name, window)
    return named


def asked(url: str, query: Query, when: Range, instance: str = ".*") -> list[Series]:
    """Raises httpx.HTTPStatusError if it is refused."""
    answer = httpx.post(
        f"{url}/api/v1/query_range",
        data={
            "query": expression(query.expr, instance, when.end_s - when.begin_s, when.step_s),
            "start": f"{when.begin_s:.3f}",
            "end": f"{when.end_s:.3f}",
            "step": f"{when.step_s:.3f}",
        },
        timeout=_TIMEOUT_S,
        trust_env=False,
    )
    result = answer.raise_for_status().json()["data"]["result"]
    return [_series(query.legend, each["metric"], each["values"]) for each in result]


def _series(legend: str, labels: dict[str, str], points: list[tuple[float, str]]) -> Series:
    name = _LABEL.sub(lambda found: labels.get(found[1], ""), legend).strip()
    numbers = [(at, float(value)) for at, value in points if not math.isnan(float(value))]
    return Series(name, [at for at, _ in numbers], [value for _, value in numbers])
