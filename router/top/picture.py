"""
What is shown: a picture of an instance at one instant, made of what was looked at.

Pure: the figures go in, with the time, and what comes out knows no terminal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.control_plane.loads import GroupLoads, Loads
from router.top.decisions import Decisions
from router.top.window import Quantiles, Rates, Window
from shm.group_table import GroupState

MAX_IMBALANCES = 600


@dataclass(frozen=True, slots=True)
class Look:
    """What an instance told at one instant."""

    at_s: float
    """On the looker's monotonic clock."""
    loads: Loads
    decisions: Decisions


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One DP group."""

    dp_rank: int
    state: GroupState
    holding_tokens: int
    waiting_tokens: int
    """Of holding_tokens: prompt tokens that are yet to be computed."""
    in_flight_tokens: int
    load_tokens: int
    """What imbalance is about: holding and in flight; of a backend what is open on it."""
    running_requests: int | None
    waiting_requests: int | None
    requests_per_s: float | None
    """Requests assigned to it."""
    step_time_ms: float | None
    age_s: float | None
    is_stale: bool
    """Its figures are too old to count: the front doors' books stand in."""
    condition: str | None
    """Why a backend's own figures are not used."""

    @property
    def is_well(self) -> bool:
        """Ready, with figures that count."""
        return self.state is GroupState.READY and not self.is_stale and not self.condition


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is shown."""

    instance: str
    method: str
    timestamp: float
    """Seconds since 1970, by the instance's clock."""
    age_s: float
    """Since it was looked at."""
    imbalance: float
    imbalances: tuple[float | None, ...]
    """Of the last looks, the newest last; None: the instance told nothing."""
    groups: tuple[GroupRow, ...]
    num_front_doors: int | None
    """None: not told."""
    num_front_doors_up: int | None
    open_requests: int | None
    """Likewise, and if no front door answers."""
    waiting_requests: int | None
    """In front doors."""
    rates: Rates | None
    latencies: Mapping[str, Quantiles]
    decisions: Decisions
    notices: tuple[str, ...] = ()
    """What is wrong, or has just happened."""

    def worst(self, most: int) -> tuple[GroupRow, ...]:
        """All by number if there are so many at most; else who is not well, then the fullest."""
        if len(self.groups) <= most:
            return self.groups
        order = sorted(self.groups, key=lambda row: (row.is_well, -row.load_tokens, row.dp_rank))
        return tuple(order[: max(0, most)])


@dataclass(slots=True)
class Album:
    """Takes looks, and makes pictures of them.  One owner, no clock of its own."""

    restarted_for_s: float = 30.0
    """How long a restart is told of."""
    _window: Window = field(default_factory=Window)
    _imbalances: deque[float | None] = field(default_factory=lambda: deque(maxlen=MAX_IMBALANCES))
    _last: Look | None = None
    _lost: str | None = None
    _restarted_s: float | None = None

    def take(self, look: Look) -> None:
        """The instance told this."""
        doors = look.loads.front_doors
        before = self._last.loads.front_doors if self._last else None
        if doors and before and doors.instance_epoch != before.instance_epoch:
            self._restarted_s = look.at_s
        if doors is not None:
            self._window.add(look.at_s, doors)
        self._imbalances.append(look.loads.imbalance)
        self._last, self._lost = look, None

    def miss(self, why: str) -> None:
        """It told nothing this time."""
        self._imbalances.append(None)
        self._lost = why

    def picture(self, now_s: float) -> Picture | None:
        """What is known at that time; None before the first look."""
        if self._last is None:
            return None
        loads, doors = self._last.loads, self._last.loads.front_doors
        rates = self._window.rates()
        up = doors.doors if doors else []
        return Picture(
            instance=doors.instance if doors else "",
            method=doors.method if doors else "",
            timestamp=loads.timestamp,
            age_s=max(0.0, now_s - self._last.at_s),
            imbalance=loads.imbalance,
            imbalances=tuple(self._imbalances),
            groups=group_rows(loads, rates),
            num_front_doors=doors.num_front_doors if doors else None,
            num_front_doors_up=len(up) if doors else None,
            open_requests=sum(door.open_requests for door in up) if up else None,
            waiting_requests=sum(door.waiting_requests for door in up) if up else None,
            rates=rates,
            latencies=self._window.latencies(),
            decisions=self._last.decisions,
            notices=tuple(self._notices(now_s)),
        )

    def _notices(self, now_s: float) -> list[str]:
        assert self._last is not None
        doors, told = self._last.loads.front_doors, []
        if self._lost is not None:
            told.append(f"no figures for {now_s - self._last.at_s:.0f} s: {self._lost}")
        if self._restarted_s is not None and now_s - self._restarted_s < self.restarted_for_s:
            told.append(f"the instance was started anew {now_s - self._restarted_s:.0f} s ago")
        if doors is None:
            told.append("this instance tells no rates and latencies: it is of an earlier version")
        elif len(doors.doors) < doors.num_front_doors:
            told.append(f"{len(doors.doors)} of {doors.num_front_doors} front doors answer")
        return told


def group_rows(loads: Loads, rates: Rates | None) -> tuple[GroupRow, ...]:
    """A row for each group, in the order told."""
    doors = loads.front_doors
    stale = {rank for door in doors.doors for rank in door.stale_groups} if doors else set()
    limit_s = doors.max_load_age_s if doors else None
    return tuple(_row(group, rates, stale, limit_s) for group in loads.loads)


def _row(
    group: GroupLoads, rates: Rates | None, stale: set[int], limit_s: float | None
) -> GroupRow:
    holding, waiting = group.holding_tokens or 0, group.num_waiting_uncached_tokens or 0
    load, in_flight = group.load_tokens, group.in_flight_tokens
    is_old = limit_s is not None and group.age_s is not None and group.age_s > limit_s
    return GroupRow(
        dp_rank=group.dp_rank,
        state=group.state,
        holding_tokens=holding,
        waiting_tokens=min(waiting, holding),
        in_flight_tokens=in_flight,
        load_tokens=holding + in_flight if load is None else load,
        running_requests=group.num_running_reqs,
        waiting_requests=group.num_waiting_reqs,
        requests_per_s=rates.dispatches.get(group.dp_rank, 0.0) if rates else None,
        step_time_ms=group.step_time_ms,
        age_s=group.age_s,
        is_stale=is_old or group.dp_rank in stale,
        condition=group.condition and str(group.condition),
    )


def as_json(picture: Picture) -> dict[str, Any]:
    """For scripts: names with units, null where nothing is known."""
    rates = picture.rates
    return {
        "instance": picture.instance,
        "method": picture.method,
        "timestamp": picture.timestamp,
        "imbalance": picture.imbalance,
        "num_front_doors": picture.num_front_doors,
        "num_front_doors_up": picture.num_front_doors_up,
        "open_requests": picture.open_requests,
        "waiting_requests": picture.waiting_requests,
        "rates_per_s": rates and {k: v for k, v in rates._asdict().items() if k != "dispatches"},
        "latencies_s": _latencies_json(picture.latencies),
        "groups": [_group_json(row) for row in picture.groups],
        "decisions": list(picture.decisions.told),
        "no_decisions": picture.decisions.why_none,
        "notices": list(picture.notices),
    }


def _latencies_json(latencies: Mapping[str, Quantiles]) -> dict[str, dict[str, float | None]]:
    return {name.removesuffix("_s"): each._asdict() for name, each in latencies.items()}


def _group_json(row: GroupRow) -> dict[str, Any]:
    names: Sequence[str] = GroupRow.__slots__
    return {name: getattr(row, name) for name in names}
