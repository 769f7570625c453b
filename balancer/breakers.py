"""
The breakers of one front door, and a request's way past them.

What a rank of an engine cannot be reached for, no rank of it can: so that counts for the engine,
at its home.  How answers end counts for the group alone: one rank may be broken, and its
neighbours not.  A request passes both.

Who has an open breaker is no candidate while there is any other.  Where there is none they are
all candidates again: a request that may fail is better than one that is refused.

An open breaker changes no charge and no book.  Pure; belongs to one front door.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import NamedTuple

from balancer.assignment import Assignment
from balancer.breaker import Breaker, BreakerRules, BreakerState
from balancer.controller import Controller
from balancer.errors import NoCandidate
from balancer.exclusion import Exclusion, because, reasons
from balancer.load import RequestShape

UNREACHABLE_IN_A_ROW = 2
"""Connections that fail to open an engine's breaker, or fewer if the rules say so."""


class BreakerChange(NamedTuple):
    """A breaker has another state now."""

    dp_ranks: Collection[int]
    """Of the group, or of all groups of the engine."""
    is_of_engine: bool
    state: BreakerState
    why: str
    cool_down_ns: int


class Passage:
    """
    One request's way to one group, from before it is sent until it is closed.

    Closing takes back what it had of a half-open breaker, once, however it ended.
    """

    __slots__ = (
        "_engine",
        "_engine_generation",
        "_group",
        "_group_generation",
        "_is_judged",
        "_is_reached",
    )

    def __init__(self, engine: Breaker, group: Breaker) -> None:
        self._engine, self._engine_generation = engine, engine.enter(self)
        self._group, self._group_generation = group, group.enter(self)
        self._is_reached = False
        """Whether its engine has heard that it can be reached."""
        self._is_judged = False
        """Whether its end says nothing more: it has failed, or the answer tells of load."""

    def reached(self, now_ns: int) -> None:
        """A connection was made for it."""
        self._is_reached = True
        self._engine_generation = self._engine.answered(self, self._engine_generation, now_ns)
        self._engine.succeeded(self._engine_generation, now_ns)

    def written(self) -> None:
        """It is on its way, on a new connection or one that was there: no more will be known."""
        self._engine.leave(self)

    def unreachable(self, now_ns: int, why: str) -> None:
        """No connection could be made, and not for a reason of ours."""
        self._engine.failed(self._engine_generation, now_ns, why)
        self.close(now_ns, is_complete=False)

    def answered(self, now_ns: int) -> None:
        """
        An answer that is no fault has begun; on a connection that was there, it is a probe's too:
        else an engine whose connections are all kept would be half-open for ever.
        """
        if not self._is_reached and self._engine.state is BreakerState.HALF_OPEN:
            self.reached(now_ns)
        self._group_generation = self._group.answered(self, self._group_generation, now_ns)

    def refrain(self) -> None:
        """An answer that is no sign of anything has begun."""
        self._is_judged = True

    def failed(self, now_ns: int, why: str) -> None:
        """The group answered with a fault of its own, or its answer broke off."""
        if not self._is_judged:
            self._is_judged = True
            self._group.failed(self._group_generation, now_ns, why)

    def close(self, now_ns: int, *, is_complete: bool) -> None:
        """The request is over; `is_complete`: its answer came to its end."""
        self._engine.leave(self)
        self._group.leave(self)
        if is_complete and not self._is_judged:
            self._is_judged = True
            self._group.succeeded(self._group_generation, now_ns)


class Breakers:
    """Makes the breakers of groups as they come, and drops those of groups that go."""

    def __init__(
        self, rules: BreakerRules, rng: random.Random, tell: Callable[[BreakerChange], None]
    ) -> None:
        fewest = min(rules.max_in_a_row, UNREACHABLE_IN_A_ROW)
        self._rules = rules
        self._engine_rules = rules._replace(max_in_a_row=fewest)
        self._rng = rng
        self._tell = tell
        self._homes: dict[int, Hashable] = {}
        self._engines: dict[Hashable, Breaker] = {}
        self._groups: dict[int, Breaker] = {}
        self._ranks: dict[Breaker, tuple[int, ...]] = {}
        self._troubled: set[Breaker] = set()
        """Those that are not closed."""

    def observe_homes(self, homes: Mapping[int, Hashable]) -> None:
        """Where each group is now, by dp_rank; what moved begins anew."""
        if homes == self._homes:
            return
        before, self._homes = self._homes, dict(homes)
        at: dict[Hashable, list[int]] = {}
        for dp_rank, home in homes.items():
            at.setdefault(home, []).append(dp_rank)
        self._engines = {home: self._engines.get(home) or self._made(engine=True) for home in at}
        self._groups = {
            dp_rank: self._groups[dp_rank] if before.get(dp_rank) == home else self._made()
            for dp_rank, home in homes.items()
        }
        self._ranks = {self._engines[home]: tuple(ranks) for home, ranks in at.items()}
        self._ranks |= {breaker: (dp_rank,) for dp_rank, breaker in self._groups.items()}
        self._troubled &= self._ranks.keys()

    def passage(self, dp_rank: int) -> Passage | None:
        """A request is about to go to that group; None if it has no breaker."""
        group = self._groups.get(dp_rank)
        if group is None:
            return None
        return Passage(self._engines[self._homes[dp_rank]], group)

    def avoided(self, now_ns: int) -> Collection[int]:
        """Groups that a request should not go to if there is another."""
        if not self._troubled:
            return ()
        shut = [each for each in tuple(self._troubled) if not each.is_passable(now_ns)]
        return {dp_rank for each in shut for dp_rank in self._ranks[each]}

    def well_again(self, dp_rank: int, why: str) -> None:
        """The group, and with it its engine, were seen to recover."""
        if dp_rank in self._groups:
            self._groups[dp_rank].well_again(why)
            self._engines[self._homes[dp_rank]].well_again(why)

    def state(self, dp_rank: int) -> BreakerState:
        """The worse one of the group's two: open, half-open, closed."""
        two = (self._groups[dp_rank].state, self._engines[self._homes[dp_rank]].state)
        worst = (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED)
        return min(two, key=worst.index)

    def _made(self, *, engine: bool = False) -> Breaker:
        return Breaker(self._engine_rules if engine else self._rules, self._rng, self._changed)

    def _changed(self, breaker: Breaker) -> None:
        ranks = self._ranks.get(breaker)
        if ranks is None:
            return  # of a group that has gone; a request of it ended just now
        if breaker.state is BreakerState.CLOSED:
            self._troubled.discard(breaker)
        else:
            self._troubled.add(breaker)
        is_of_engine = breaker is self._engines[self._homes[ranks[0]]]
        self._tell(
            BreakerChange(ranks, is_of_engine, breaker.state, breaker.why, breaker.cool_down_ns)
        )


class Chosen(NamedTuple):
    """An assignment, and how it came about."""

    assignment: Assignment
    is_last_resort: bool
    """Only groups could take it that were to be avoided."""


def assign_around(
    controller: Controller,
    request: RequestShape,
    excluded: Collection[int],
    avoided: Collection[int],
) -> Chosen:
    """
    Assign to none of the excluded, and to one of the avoided only if there is nobody else.

    A group that was asked for by its number is asked for, whatever its breaker says.  Raises
    NoCandidate.
    """
    if not avoided or request.dp_rank is not None:
        return Chosen(controller.assign(request, excluded), False)
    try:
        around = because(avoided, Exclusion.BREAKER_OPEN) | reasons(excluded)
        return Chosen(controller.assign(request, around), False)
    except NoCandidate:
        assignment = controller.assign(request, excluded)
        if assignment.decision is not None:
            assignment.decision = assignment.decision._replace(is_last_resort=True)
        return Chosen(assignment, True)
