"""
Groups that were no candidates when a request was dispatched, and why.

    starting, dead, draining, released   by the group table
    suspect                              likewise, while another group is ready
    full                                 it has as many requests as it takes
    others                               see balancer.exclusion

At most MAX_NAMED are named, the rest is counted.  What the table alone says is worked out
once for each table; only where a ready group is left out too are all slots looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from balancer.candidates import CANDIDATES
from balancer.decision import MAX_NAMED, LeftOut
from balancer.exclusion import why_excluded
from balancer.load import GroupLoad
from balancer.slots import Slots
from shm.group_table import GroupState

_FULL = "full"
_NOT_ASKED_FOR = "not_asked_for"


class Bystanders:
    """Belongs to one controller."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._seen_seatings = -1
        self._num_seated = self._num_ready = 0
        self._unready = LeftOut()

    def of(
        self, candidates: Sequence[GroupLoad], asked: int | None, excluded: Collection[int]
    ) -> LeftOut:
        """Who was left out when these were the candidates."""
        if self._seen_seatings != self._slots.num_seatings:
            self._look()
        if asked is not None:
            num_others = self._num_seated - 1
            return LeftOut((), ((_NOT_ASKED_FOR, num_others),)) if num_others else LeftOut()
        if len(candidates) == self._num_ready:
            return self._unready
        taken = {load.dp_rank for load in candidates}
        return _summed(
            (rank, _why_not(rank, state, excluded))
            for rank, state in enumerate(self._slots.states)
            if state is not None and rank not in taken
        )

    def _look(self) -> None:
        states = self._slots.states
        self._seen_seatings = self._slots.num_seatings
        self._num_seated = sum(state is not None for state in states)
        self._num_ready = self._slots.num_ready()
        self._unready = _summed(
            (rank, state.value)
            for rank, state in enumerate(states)
            if state is not None and state is not GroupState.READY
        )


def _why_not(dp_rank: int, state: GroupState, excluded: Collection[int]) -> str:
    if state not in CANDIDATES:
        return state.value
    why = why_excluded(excluded, dp_rank)
    if why is not None:
        return why.value
    return _FULL if state is GroupState.READY else state.value


def _summed(found: Iterable[tuple[int, str]]) -> LeftOut:
    groups = tuple(found)
    counts = Counter(why for _, why in groups)
    return LeftOut(groups[:MAX_NAMED], tuple(counts.items()))
