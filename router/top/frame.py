"""
A picture as lines of text for a terminal of a certain size.

    levelhead top, what is looked at
    imbalance, and over time
    rates
    latencies
    notices, as far as there are any
    (space)
    heads of columns, a line for each group, and one for those left out
    (space)
    recent decisions
    legend

Groups get what they need first, down to MIN_DECISIONS lines for the decisions.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from rich.text import Text

from router.top import words
from router.top.bars import Glyphs, sparkline
from router.top.decision_lines import decision_line
from router.top.group_lines import group_head, group_line
from router.top.picture import Picture

_HEAD_LINES = 4
_FRAME_LINES = 4  # two spaces, heads of columns, legend
MIN_DECISIONS = 4
_MAX_DECISIONS = 20
_LATENCIES = {"ttft_s": "TTFT", "inter_token_s": "ITL", "end_to_end_s": "e2e"}
_LARGE = 1.5  # an imbalance that is worth a colour


class Room(NamedTuple):
    """Lines for groups, the one for those left out included, and for decisions."""

    groups: int
    decisions: int


def room(num_groups: int, num_decisions: int, num_notices: int, height: int | None) -> Room:
    """Share the lines out; without a height everything has room."""
    decisions = 1 + max(1, min(num_decisions, _MAX_DECISIONS))  # a head, and why there are none
    if height is None:
        return Room(num_groups, decisions)
    left = max(2, height - _HEAD_LINES - _FRAME_LINES - num_notices)
    groups = min(num_groups, max(1, left - min(decisions, MIN_DECISIONS)))
    return Room(groups, max(0, min(decisions, left - groups)))


def frame(picture: Picture, glyphs: Glyphs, width: int, height: int | None = None) -> list[Text]:
    """At most `height` lines of at most `width` cells."""
    space = room(len(picture.groups), len(picture.decisions.told), len(picture.notices), height)
    lines = [
        _title(picture),
        _imbalance(picture, glyphs, width),
        _rates(picture),
        _latencies(picture),
        *(Text(f"! {words.plain(notice)}", "bold yellow") for notice in picture.notices),
        Text(),
        *_groups(picture, glyphs, width, space.groups),
        Text(),
        *_decisions(picture, space.decisions, width),
        _legend(glyphs),
    ]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def _title(picture: Picture) -> Text:
    ready = sum(row.state == "ready" for row in picture.groups)
    parts = [
        words.plain(picture.instance),
        f"{words.things(len(picture.groups), 'group')}, {ready:,} ready",
        words.plain(picture.method),
        time.strftime("%H:%M:%S", time.localtime(picture.timestamp)),
    ]
    if picture.num_front_doors:
        parts.insert(2, words.things(picture.num_front_doors, "front door"))
    return Text("levelhead top", "bold").append(
        "  " + "  ".join(part for part in parts if part), "not bold"
    )


def _imbalance(picture: Picture, glyphs: Glyphs, width: int) -> Text:
    known = [value for value in picture.imbalances if value is not None]
    is_large = picture.imbalance >= _LARGE
    line = Text("imbalance ").append(f"{picture.imbalance:.2f}", "bold red" if is_large else "bold")
    largest = f"  at most {max(known):.2f}" if known else ""
    space = width - line.cell_len - len(largest) - 2
    line.append("  ").append(sparkline(picture.imbalances, space, glyphs.rising), "cyan")
    return line.append(largest)


def _rates(picture: Picture) -> Text:
    rates, line = picture.rates, Text()
    failed = "bold red" if rates and rates.errors else "bold"
    for name, value, style in (
        ("req/s", words.rate(rates and rates.requests), "bold"),
        ("  5xx/s", words.rate(rates and rates.errors), failed),
        ("  tok/s in", words.rate(rates and rates.prompt_tokens), "bold"),
        (" out", words.rate(rates and rates.streamed_tokens), "bold"),
        ("  open", words.count(picture.open_requests), "bold"),
        ("  waiting", words.count(picture.waiting_requests), "bold"),
    ):
        line.append(f"{name} ").append(value, style)
    return line


def _latencies(picture: Picture) -> Text:
    line = Text("p50 p95 p99")
    for name, word in _LATENCIES.items():
        found = picture.latencies.get(name) or (None, None, None)
        told = " ".join(words.seconds(value) for value in found)
        line.append(f"  {word} ").append(told, "bold")
    return line


def _groups(picture: Picture, glyphs: Glyphs, width: int, most: int) -> list[Text]:
    is_all = len(picture.groups) <= most
    shown = picture.worst(most if is_all else most - 1)
    full = max((row.load_tokens for row in picture.groups), default=0)
    lines = [group_head(width), *(group_line(row, full, glyphs, width) for row in shown)]
    if not is_all:
        seen = {row.dp_rank for row in shown}
        rest = [row for row in picture.groups if row.dp_rank not in seen]
        loads = [row.load_tokens for row in rest]
        tokens = f"{words.count(min(loads))} to {words.count(max(loads))} tokens"
        lines.append(Text(f"      and {words.things(len(rest), 'group')} more: {tokens}", "dim"))
    return lines


def _decisions(picture: Picture, most: int, width: int) -> list[Text]:
    if most < 2:
        return []
    decisions = picture.decisions
    head = Text("recent decisions", "bold")
    if not decisions.told:
        why = decisions.why_none or "none yet"
        return [head, Text(f"  {words.plain(why)}", "dim")]
    return [head, *(decision_line(each, picture.timestamp) for each in decisions.told[: most - 1])]


def _legend(glyphs: Glyphs) -> Text:
    line = Text(style="dim")
    line.append(f"{glyphs.computed} holding  {glyphs.waiting} of it waiting for prefill  ")
    return line.append(f"{glyphs.in_flight} in flight    q: quit")
