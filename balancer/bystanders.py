"""
Groups that were no candidates when a request was dispatched, and why.

    starting, dead, draining, released   by the group table
    suspect                              likewise, while another group is ready
    full                                 it has as many requests as it takes
    others                               see balancer.exclusion

At most MAX_NAMED are named, the rest is counted.  What the table alone says is worked out
once for each table.  Only where a ready group is left out too, which is so with each request of an
instance that is full, are those left out looked through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from operator import itemgetter

from balancer.candidates import CANDIDATES
from balancer.decision import MAX_NAMED, LeftOut
from balancer.exclusion import reasons
from balancer.load import GroupLoad
from balancer.slots import Slots
from shm.group_table import GroupState

_READY = GroupState.READY
_FULL = "full"
_NOT_ASKED_FOR = "not_asked_for"
_FIRST, _SECOND = itemgetter(0), itemgetter(1)


class Bystanders:
    """Belongs to one controller."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._seen_seatings = -1
        self._num_ready = 0
        self._whys: dict[int, str] = {}
        """Of every group there is, in order: what is wrong with it if nothing else is known."""
        self._unready = LeftOut()

    def of(
        self, candidates: Sequence[GroupLoad], asked: int | None, excluded: Collection[int]
    ) -> LeftOut:
        """Who was left out when these were the candidates: ready ones, or suspect ones."""
        if self._seen_seatings != self._slots.num_seatings:
            self._look()
        if asked is not None:
            num_others = len(self._whys) - 1
            return LeftOut((), ((_NOT_ASKED_FOR, num_others),)) if num_others else LeftOut()
        are_ready = self._slots.states[candidates[0].dp_rank] is _READY
        if are_ready and len(candidates) == self._num_ready:
            return self._unready
        taken = set(map(_FIRST, candidates))
        found = [each for each in self._whys.items() if each[0] not in taken]
        return _summed(self._with_reasons(found, excluded) if excluded else found)

    def _look(self) -> None:
        states = self._slots.states
        self._seen_seatings = self._slots.num_seatings
        self._num_ready = self._slots.num_ready()
        self._whys = {
            rank: _FULL if state is _READY else state.value
            for rank, state in enumerate(states)
            if state is not None
        }
        self._unready = _summed([each for each in self._whys.items() if each[1] != _FULL])

    def _with_reasons(
        self, found: Sequence[tuple[int, str]], excluded: Collection[int]
    ) -> Sequence[tuple[int, str]]:
        """Who is excluded is left out for that, if it might have been a candidate."""
        states, told = self._slots.states, reasons(excluded)
        return [
            (rank, told[rank]._value_ if rank in told and states[rank] in CANDIDATES else why)
            for rank, why in found
        ]  # .value, a call, takes as long as all the rest


def _summed(groups: Sequence[tuple[int, str]]) -> LeftOut:
    counts = Counter(map(_SECOND, groups))
    return LeftOut(tuple(groups[:MAX_NAMED]), tuple(counts.items()))
