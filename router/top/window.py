"""
What front doors counted over the last while: rates and latencies.

Counts only grow within one life of a front door, so each door is compared with itself in the same
life.  A door that was started anew in between, or did not answer at either end, adds nothing; so
no restart shows as a burst, and none as a negative rate.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from router.control_plane.door_figures import DoorFigures, FrontDoors, Latencies
from router.top.quantiles import quantile

RATE_S = 5.0
LATENCY_S = 60.0
QUANTILES = (0.5, 0.95, 0.99)
LATENCIES = ("ttft_s", "inter_token_s", "end_to_end_s", "decision_s")
_FAILED = 500


class Rates(NamedTuple):
    """Per second, over RATE_S or as long as it was looked at."""

    requests: float
    """Answers to inference requests, of any status."""
    errors: float
    """Of those, 5xx."""
    prompt_tokens: float
    streamed_tokens: float
    dispatches: Mapping[int, float]
    """Requests assigned, by dp_rank."""


class Quantiles(NamedTuple):
    """Seconds; None where nothing was observed."""

    p50: float | None
    p95: float | None
    p99: float | None


class Window:
    """The looks of the last minute."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, FrontDoors]] = deque()

    def add(self, at_s: float, front_doors: FrontDoors) -> None:
        """Keep a look.  Those of another instance, or another life of it, are forgotten."""
        if self._looks and self._looks[-1][1].instance_epoch != front_doors.instance_epoch:
            self._looks.clear()
        self._looks.append((at_s, front_doors))
        while len(self._looks) > 2 and at_s - self._looks[1][0] >= LATENCY_S:
            self._looks.popleft()

    def rates(self) -> Rates | None:
        """None before the second look."""
        since = self._since(RATE_S)
        if since is None:
            return None
        then, now = since
        elapsed_s = max(1e-9, now[0] - then[0])
        grown: Counter[str] = Counter()
        dispatches: Counter[int] = Counter()
        for before, after in _pairs(then[1], now[1]):
            grown.update(_growth(before, after))
            counts = zip(before.dispatches, after.dispatches, strict=False)
            dispatches.update({rank: max(0, b - a) for rank, (a, b) in enumerate(counts)})
        return Rates(
            requests=grown["requests"] / elapsed_s,
            errors=grown["errors"] / elapsed_s,
            prompt_tokens=grown["prompt_tokens"] / elapsed_s,
            streamed_tokens=grown["streamed_tokens"] / elapsed_s,
            dispatches={rank: count / elapsed_s for rank, count in dispatches.items()},
        )

    def latencies(self) -> dict[str, Quantiles]:
        """Of each of LATENCIES, over LATENCY_S; empty before the second look."""
        since = self._since(LATENCY_S)
        if since is None:
            return {}
        pairs = list(_pairs(since[0][1], since[1][1]))
        return {name: _quantiles(pairs, name) for name in LATENCIES}

    def _since(
        self, span_s: float
    ) -> tuple[tuple[float, FrontDoors], tuple[float, FrontDoors]] | None:
        """The last look and the youngest that is that old, or the oldest that there is."""
        if len(self._looks) < 2:
            return None
        now = self._looks[-1]
        old = (look for look in reversed(self._looks) if now[0] - look[0] >= span_s)
        return next(old, self._looks[0]), now


def _pairs(then: FrontDoors, now: FrontDoors) -> Iterator[tuple[DoorFigures, DoorFigures]]:
    before = {(door.slot, door.epoch): door for door in then.doors}
    for door in now.doors:
        if (door.slot, door.epoch) in before:
            yield before[door.slot, door.epoch], door


def _growth(before: DoorFigures, after: DoorFigures) -> dict[str, int]:
    answers = Counter(after.responses)
    answers.subtract(before.responses)
    return {
        "requests": answers.total(),
        "errors": sum(count for status, count in answers.items() if int(status) >= _FAILED),
        "prompt_tokens": after.prompt_tokens - before.prompt_tokens,
        "streamed_tokens": after.streamed_tokens - before.streamed_tokens,
    }


def _quantiles(pairs: list[tuple[DoorFigures, DoorFigures]], name: str) -> Quantiles:
    if not pairs:
        return Quantiles(None, None, None)
    grown: list[float] = []
    for before, after in pairs:
        then: Latencies = getattr(before, name)
        now: Latencies = getattr(after, name)
        counts = [b - a for a, b in zip(then.counts, now.counts, strict=True)]
        grown = [a + b for a, b in zip(grown or [0] * len(counts), counts, strict=True)]
    bounds = getattr(pairs[0][1], name).bounds
    return Quantiles(*(quantile(bounds, grown, share) for share in QUANTILES))
