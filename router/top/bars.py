"""Bars and sparklines out of characters: tellable apart without colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 1.0
_LEAST_SPAN = 1.0  # 1 to 2: a ripple does not look like a mountain


class Glyphs(NamedTuple):
    """What a terminal can show."""

    computed: str
    waiting: str
    in_flight: str
    rising: str
    """From level to the largest imbalance."""


FINE = Glyphs("█", "▓", "░", "▁▂▃▄▅▆▇█")
PLAIN = Glyphs("#", "=", ".", "_.-~=+*#")


class Bar(NamedTuple):
    """Cells of each kind, from the left."""

    computed: int
    waiting: int
    in_flight: int


def bar(computed: int, waiting: int, in_flight: int, full: int, width: int) -> Bar:
    """
    Cells for those tokens where `full` tokens fill the width.

    Ends are rounded, not lengths, so bars of equal sums are equally long; what is not nothing
    is seen where there is a cell to see it in.
    """
    if full <= 0:
        return Bar(0, 0, 0)
    ends: list[int] = []
    taken = 0
    for tokens in (computed, waiting, in_flight):
        taken += tokens
        least = (ends[-1] if ends else 0) + (1 if tokens else 0)
        ends.append(min(width, max(least, round(width * taken / full))))
    return Bar(ends[0], ends[1] - ends[0], ends[2] - ends[1])


def sparkline(values: Sequence[float | None], width: int, rising: str) -> str:
    """
    Imbalance over time, the newest at the right; spaces where nothing is known.

    The lowest is level (1.0), the highest the largest shown, or 2.0 if that is less.
    """
    shown = values[-width:] if width > 0 else ()
    known = [value for value in shown if value is not None]
    span = max([LEVEL + _LEAST_SPAN, *known]) - LEVEL
    steps = len(rising) - 1
    cells = [
        " " if value is None else rising[min(steps, round(steps * (value - LEVEL) / span))]
        for value in shown
    ]
    return "".join(cells).rjust(max(0, width))
