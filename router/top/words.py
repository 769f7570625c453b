"""Numbers and foreign text as they are shown, narrow enough for a terminal's columns."""

from __future__ import annotations

_UNKNOWN = "-"


def count(value: float | None) -> str:
    """At most six characters: 1,234 and 98,765, then 123k, 1.2M."""
    if value is None:
        return _UNKNOWN
    if value < 99_999.5:
        return f"{value:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < 999.5 * size:
            return f"{value / size:.{0 if value >= 99.95 * size else 1}f}{unit}"
    return f"{value:.0e}"


def rate(value: float | None) -> str:
    """Something per second: with a decimal while it is small."""
    if value is None:
        return _UNKNOWN
    return f"{value:.1f}" if value < 99.95 else count(value)


def seconds(value: float | None) -> str:
    """34ms, 1.2s, 340s."""
    if value is None:
        return _UNKNOWN
    if value < 0.9995:
        return f"{value * 1e3:.{1 if value < 0.00995 else 0}f}ms"
    return f"{value:.1f}s" if value < 99.95 else f"{value:.0f}s"


def plain(text: object) -> str:
    """Foreign text without what a terminal would obey: escapes, controls, line breaks."""
    return "".join(each if each.isprintable() else "?" for each in str(text))


def things(number: int, thing: str) -> str:
    """1 group, 2 groups."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
