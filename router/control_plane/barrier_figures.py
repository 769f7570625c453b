"""
What waiting for each other costs groups that compute every step together, as a leader tells it.

See workers/lockstep/barrier_totals.py, which counts it, for what each figure means.
"""

from __future__ import annotations

from typing import Any, NamedTuple

QUANTITIES = ("tokens", "requests", "kv_tokens", "attention_pairs")


class Histogram(NamedTuple):
    """counts[i]: above bounds[i - 1], and bounds[i] at most; the last is above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @classmethod
    def from_json(cls, told: Any) -> Histogram:
        """Raises ValueError, KeyError or TypeError if it is none."""
        bounds, counts = tuple(map(float, told["bounds"])), tuple(map(int, told["counts"]))
        if len(counts) != len(bounds) + 1:
            raise ValueError(f"a histogram with {len(bounds)} bounds and {len(counts)} counts")
        return cls(bounds, counts, float(told["total"]))

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: all that is at most the bound."""
        below, found = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Quantity(NamedTuple):
    """largest: of any group, summed over steps.  ratio: largest over mean, of each step."""

    by_group: tuple[int, ...]
    largest: int
    ratio: Histogram

    @classmethod
    def from_json(cls, told: Any) -> Quantity:
        """Raises as Histogram does."""
        by_group = tuple(map(int, told["by_group"]))
        return cls(by_group, int(told["largest"]), Histogram.from_json(told["ratio"]))


class GroupTime(NamedTuple):
    """Of one group."""

    num_idle_steps: int
    step_s: float
    waited_s: Histogram

    @classmethod
    def from_json(cls, told: Any) -> GroupTime:
        """Raises as Histogram does."""
        waited_s = Histogram.from_json(told["waited_s"])
        return cls(int(told["num_idle_steps"]), float(told["step_s"]), waited_s)


class BarrierFigures(NamedTuple):
    """Of all groups; quantities in the order of QUANTITIES."""

    num_steps: int
    groups: tuple[GroupTime, ...]
    quantities: tuple[Quantity, ...]

    @classmethod
    def from_json(cls, told: Any) -> BarrierFigures:
        """Raises as Histogram does."""
        quantities = told["quantities"]
        return cls(
            int(told["num_steps"]),
            tuple(map(GroupTime.from_json, told["groups"])),
            tuple(Quantity.from_json(quantities[name]) for name in QUANTITIES),
        )
