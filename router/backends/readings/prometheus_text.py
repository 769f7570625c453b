"""Gauges out of Prometheus' text format: those few that are asked for."""

from __future__ import annotations

import re
from typing import NamedTuple

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One line."""

    labels: dict[str, str]
    value: float


def samples(text: str, name: str) -> list[Sample]:
    """
    Every line of that metric.

    Raises ValueError if one has a value that is no number.
    """
    found = re.findall(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)", text, re.MULTILINE)
    return [Sample(dict(_LABEL.findall(labels)), float(value)) for labels, value in found]
