"""The line of a DP group: who, how it stands, a bar, and the figures beside it."""

from __future__ import annotations

from rich.text import Text

from router.top import words
from router.top.bars import Glyphs, bar
from router.top.picture import GroupRow
from shm.group_table import GroupState

# head, width
_BEFORE = (("group", 5), ("state", 8))
_AFTER = (
    ("holding", 7), ("in flight", 9), ("run", 4), ("wait", 4), ("req/s", 5), ("step", 6),
    ("age", 6),
)  # fmt: skip
_LEAST_BAR = 4
_STATE_STYLES = {
    GroupState.READY: "green",
    GroupState.SUSPECT: "bold yellow",
    GroupState.DEAD: "bold red",
    GroupState.DRAINING: "magenta",
    GroupState.STARTING: "blue",
    GroupState.RELEASED: "blue",
}


def bar_width(width: int) -> int:
    """Cells that are left for the bar."""
    fixed = sum(cells + 1 for _, cells in (*_BEFORE, *_AFTER))
    return max(_LEAST_BAR, width - fixed)


def group_head(width: int) -> Text:
    """Heads of the columns."""
    parts = [f"{name:<{cells}}" for name, cells in _BEFORE]
    parts.append("tokens".ljust(bar_width(width)))
    parts += [f"{name:>{cells}}" for name, cells in _AFTER]
    return Text(" ".join(parts), "bold reverse")


def group_line(row: GroupRow, full: int, glyphs: Glyphs, width: int) -> Text:
    """`full` is the load of the fullest group; a bar is as long as its group's is."""
    line = Text(f"{row.dp_rank:>5} ").append(f"{row.state.value:<8} ", _STATE_STYLES[row.state])
    space = bar_width(width)
    computed = row.holding_tokens - row.waiting_tokens
    beyond = max(0, row.load_tokens - row.holding_tokens)  # in flight, but for backends
    cells = bar(computed, row.waiting_tokens, beyond, full, space)
    line.append(glyphs.computed * cells.computed, "cyan")
    line.append(glyphs.waiting * cells.waiting, "yellow")
    line.append(glyphs.in_flight * cells.in_flight, "magenta")
    line.append(" " * (space - sum(cells)))
    figures = (
        words.count(row.holding_tokens),
        words.count(row.in_flight_tokens),
        words.count(row.running_requests),
        words.count(row.waiting_requests),
        words.rate(row.requests_per_s),
        words.seconds(None if row.step_time_ms is None else row.step_time_ms / 1e3),
    )
    for (_, each), figure in zip(_AFTER, figures, strict=False):
        line.append(f" {figure:>{each}}")
    age = words.plain(row.condition) if row.condition else words.seconds(row.age_s)
    return line.append(f" {age:>{_AFTER[-1][1]}}", "bold yellow" if row.is_stale else "")
