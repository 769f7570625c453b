"""Figures of emulated steps, from their log, as the simulator counts its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import orjson

from balancer.simulation.figures import StepFigures


class LiveFigures(NamedTuple):
    """
    Of the rounds that began in the window.

    step_ms: how long they took, on average.
    late_share: of rounds that began late, because planning took longer than the round.
    late_ms: how late those were, on average.
    gap_share: of a round, what planning it took, on average; it may be more than all of it.
    """

    slowdown: float
    kv_max_over_mean: float
    num_rounds: int
    step_ms: float
    late_share: float
    late_ms: float
    gap_share: float


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The rounds; a last line that was not finished is left out."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield orjson.loads(line)


def live_figures(
    rounds: Iterable[dict[str, Any]], num_groups: int, base_ms: float, window_s: tuple[float, float]
) -> LiveFigures:
    """Groups that had nothing to compute count as groups that add nothing."""
    first_s, end_s = window_s
    seen = [each for each in rounds if first_s <= each["start_s"] < end_s]
    if not seen:
        raise ValueError(f"no round began in the window, {first_s:.1f} to {end_s:.1f} s")
    figures = StepFigures()
    for each in seen:
        _add(figures, each, num_groups, base_ms)
    late_ms = [each["late_ms"] for each in seen if each["late_ms"] > each["duration_ms"]]
    return LiveFigures(
        figures.time / figures.level_time,
        figures.kv_ratio_time / figures.kv_time,
        len(seen),
        fmean(each["duration_ms"] for each in seen),
        len(late_ms) / len(seen),
        sum(late_ms) / max(1, len(late_ms)),
        fmean(each["gap_ms"] / each["duration_ms"] for each in seen),
    )


def _add(figures: StepFigures, each: dict[str, Any], num_groups: int, base_ms: float) -> None:
    level_ms = base_ms + sum(rank["cost_ms"] for rank in each["ranks"]) / num_groups
    kv = [0] * num_groups
    for rank in each["ranks"]:
        kv[rank["dp_rank"]] = rank["kv_tokens"]
    duration_ms = each["duration_ms"]
    figures.add(duration_ms, level_ms, (duration_ms - level_ms) / duration_ms, kv, 1.0)
