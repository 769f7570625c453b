"""
What becomes of requests, and what this front door makes of it: whom it avoids.

    counts as          the engine cannot be reached    the group fails     the group is well
    connecting         refused, timed out              -                   -
    status             -                               5xx but those       1xx to 4xx, 501, 505
    connection         -                               lost in an answer   -

    counts for nothing: 429 and 503, which tell of load; a client that left; silence; a shortage
    of ours

503 counts for nothing with `Retry-After` or without: SGLang answers it, without, when its queue
is full, and to take away an engine because all are busy makes the others busier.  Who says it
for long is found by `/health`.  501 and 505 say what the engine cannot do for anybody.

Only groups that are somebody else's engines are watched.  Workers of ours have the control
plane, which hears of a death as it happens.  Each front door judges by its own requests
(docs/decisions/0017-passive-health.md).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from balancer.assignment import Assignment
from balancer.breaker import BreakerState
from balancer.breakers import BreakerChange, Breakers, Passage, assign_around
from balancer.controller import Controller
from balancer.load import RequestShape
from router.front_door.meters import Meters
from router.front_door.upstream import Address
from router.health_rules import HealthRules
from shm.group_table import GroupEntry, GroupState

_log = logging.getLogger("levelhead.front_door")
_NS = 1e-9
_OF_LOAD = (429, 503)
_OF_NOBODYS_FAULT = (501, 505)
_FIRST_FAULT = 500
_IN_METERS = {BreakerState.CLOSED: 0, BreakerState.OPEN: 1, BreakerState.HALF_OPEN: 2}


class Watched(Protocol):
    """Hears of one request on one group how far it got; nothing after `close`."""

    def reached(self) -> None:
        """A connection was made for it."""

    def written(self) -> None:
        """It was written to a connection, new or not."""

    def unreachable(self, why: str) -> None:
        """No connection could be made."""

    def answered(self, status: int) -> None:
        """The head of an answer came."""

    def lost(self, why: str) -> None:
        """Its connection broke before the answer was complete."""

    def close(self, *, is_complete: bool) -> None:
        """It is over, however; twice does no harm."""


class PassiveHealth:
    """Owns the breakers of one front door."""

    def __init__(
        self,
        rules: HealthRules,
        meters: Meters,
        rng: random.Random,
        clock_ns: Callable[[], int],
    ) -> None:
        self._meters = meters
        self._clock_ns = clock_ns
        breaker = rules.breaker
        self._breakers = None if breaker is None else Breakers(breaker, rng, self._tell)
        self._states: dict[int, GroupState] = {}
        self._is_last_resort = False

    def observe(self, rows: Iterable[GroupEntry]) -> None:
        """Take over the group table: who is watched, and who was seen to be well again."""
        if self._breakers is None:
            return
        watched = {row.dp_rank: row for row in rows if row.is_backend}
        homes = {dp_rank: Address.of(row) for dp_rank, row in watched.items()}
        self._breakers.observe_homes(homes)
        for dp_rank, row in watched.items():
            before = self._states.get(dp_rank, row.state)
            if row.state is GroupState.READY and before is not GroupState.READY:
                self._breakers.well_again(dp_rank, f"it was {before}, and answers for its health")
        self._states = {dp_rank: row.state for dp_rank, row in watched.items()}
        self._meters.breaker_states = {
            dp_rank: _IN_METERS[self._breakers.state(dp_rank)] for dp_rank in watched
        }

    def assign(
        self, controller: Controller, shape: RequestShape, excluded: Collection[int], now_ns: int
    ) -> Assignment:
        """Assign to none of the excluded, and to none that fails if that can be.  NoCandidate."""
        avoided = () if self._breakers is None else self._breakers.avoided(now_ns)
        if not avoided:
            self._is_last_resort = False
            return controller.assign(shape, excluded)
        assignment, is_last_resort = assign_around(controller, shape, excluded, avoided)
        if is_last_resort:
            self._meters.last_resorts += 1
            if not self._is_last_resort:
                _log.warning(
                    "nobody else can take a request: it goes to DP group %d, whose breaker is open",
                    assignment.dp_rank,
                )
        self._is_last_resort = is_last_resort
        return assignment

    def watched(self, dp_rank: int) -> Watched:
        """A request is about to be sent to that group; who is to hear what becomes of it."""
        passage = None if self._breakers is None else self._breakers.passage(dp_rank)
        return _NOBODY if passage is None else _Passing(passage, self._clock_ns)

    def _tell(self, change: BreakerChange) -> None:
        """One line at each transition, and a counter."""
        assert self._breakers is not None
        self._meters.breaker_changes[change.state.value] += 1
        for dp_rank in change.dp_ranks:
            state = self._breakers.state(dp_rank)
            self._meters.breaker_states[dp_rank] = _IN_METERS[state]
        groups = ", ".join(map(str, change.dp_ranks))
        who = f"the engine of DP group(s) {groups}" if change.is_of_engine else f"DP group {groups}"
        if change.state is BreakerState.OPEN:
            _log.warning(
                "%s gets no request for %.1f s if another can take it: %s",
                who, change.cool_down_ns * _NS, change.why,
            )  # fmt: skip
        else:
            _log.info("%s: its breaker is %s: %s", who, change.state.value, change.why)


class _Passing:
    """Translates HTTP into what a breaker knows."""

    __slots__ = ("_clock_ns", "_passage")

    def __init__(self, passage: Passage, clock_ns: Callable[[], int]) -> None:
        self._passage = passage
        self._clock_ns = clock_ns

    def reached(self) -> None:
        self._passage.reached(self._clock_ns())

    def written(self) -> None:
        self._passage.written()

    def unreachable(self, why: str) -> None:
        self._passage.unreachable(self._clock_ns(), why)

    def answered(self, status: int) -> None:
        if status in _OF_LOAD:
            self._passage.refrain()
        elif status < _FIRST_FAULT or status in _OF_NOBODYS_FAULT:
            self._passage.answered(self._clock_ns())
        else:
            self._passage.failed(self._clock_ns(), f"it answered {status}")

    def lost(self, why: str) -> None:
        self._passage.failed(self._clock_ns(), why)

    def close(self, *, is_complete: bool) -> None:
        self._passage.close(self._clock_ns(), is_complete=is_complete)


class _Nobody:
    """Of a group that has no breaker."""

    def reached(self) -> None:
        pass

    def written(self) -> None:
        pass

    def unreachable(self, why: str) -> None:
        pass

    def answered(self, status: int) -> None:
        pass

    def lost(self, why: str) -> None:
        pass

    def close(self, *, is_complete: bool) -> None:
        pass


_NOBODY = _Nobody()
