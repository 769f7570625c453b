"""A panel: what is asked, and how the answer is drawn.  Knows neither Grafana nor Matplotlib."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Drawn(StrEnum):
    """How a panel shows what its queries return."""

    NUMBER = "number"
    """The last value, large, with a line behind it."""
    LINES = "lines"
    HEATMAP = "heatmap"
    """How many series are where: for any number of them."""
    STATES = "states"
    """A strip for each series, coloured by the state that its value stands for."""


class Unit(StrEnum):
    """What a value is.  The values are Grafana's own names."""

    PLAIN = "short"
    TOKENS = "locale"
    SHARE = "percentunit"
    TIMES = "none"
    SECONDS = "s"
    PER_SECOND = "reqps"
    BYTES_PER_SECOND = "Bps"


class Query(NamedTuple):
    """An expression; $-words are the dashboard's variables."""

    expr: str
    legend: str = ""


class State(NamedTuple):
    """What a value of a strip stands for."""

    name: str
    colour: str


class Panel(NamedTuple):
    """One picture.  Width: of 24.  A value from `limit` on, or below `floor`, is worth a look."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.PLAIN
    drawn: Drawn = Drawn.LINES
    width: int = 8
    about: str = ""
    limit: float | None = None
    states: tuple[State, ...] = ()
    floor: float | None = None


class Row(NamedTuple):
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]
