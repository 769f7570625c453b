"""Figures of emulated steps, from their log, as the simulator counts its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from balancer.simulation.figures import StepFigures


class LiveFigures(NamedTuple):
    """
    Of the rounds that began in the window.

    late_share: of rounds that began late, because planning took longer than the round.
    late_ms: how late those were, on average.
    """

    slowdown: float
    kv_max_over_mean: float
    num_rounds: int
    late_share: float
    late_ms: float


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The rounds; a last line that was not finished is left out."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield orjson.loads(line)


def live_figures(
    rounds: Iterable[dict[str, Any]], num_groups: int, base_ms: float, window_s: tuple[float, float]
) -> LiveFigures:
    """Groups that had nothing to compute count as groups that add nothing."""
    figures, late_ms, num_rounds = StepFigures(), [], 0
    for each in rounds:
        if not window_s[0] <= each["start_s"] < window_s[1]:
            continue
        num_rounds += 1
        late_ms += [each["late_ms"]] if each["late_ms"] else []
        level_ms = base_ms + sum(rank["cost_ms"] for rank in each["ranks"]) / num_groups
        kv = [0] * num_groups
        for rank in each["ranks"]:
            kv[rank["dp_rank"]] = rank["kv_tokens"]
        duration_ms = each["duration_ms"]
        figures.add(duration_ms, level_ms, (duration_ms - level_ms) / duration_ms, kv, 1.0)
    if not num_rounds:
        raise ValueError(f"no round began in the window, {window_s[0]:.1f} to {window_s[1]:.1f} s")
    return LiveFigures(
        figures.time / figures.level_time,
        figures.kv_ratio_time / figures.kv_time,
        num_rounds,
        len(late_ms) / num_rounds,
        sum(late_ms) / max(1, len(late_ms)),
    )
