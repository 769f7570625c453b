"""
The slots of a controller: who has each, in which state, what weighs there, and what it may take.

A slot is a dp_rank.  With backends there are more than groups, and groups come and go: one
that nobody has is no candidate, and its load is that of nobody.

A group whose figures are fresh is weighed with its report and what is in flight to it; a
backend, or one whose figures are stale or missing, with the books of all front doors (see
balancer.weighing, .ledger and .freshness).
"""

from __future__ import annotations

from collections.abc import Sequence

from balancer.candidates import States
from balancer.ledger import Ledger
from balancer.load import GroupLoad
from balancer.unstarted import Unstarted
from balancer.weighing import load_of
from shm.group_table import GroupEntry, GroupState

_UNLIMITED = 1 << 62  # requests, of a group that has not said how many it takes
_READY = GroupState.READY  # looking a member up takes as long as half of a GroupLoad


class Slots:
    """Belongs to one controller, which says when a slot is to be weighed anew."""

    def __init__(
        self, ledger: Ledger, is_fresh: Sequence[bool], unstarted: Unstarted, num_slots: int
    ) -> None:
        """`is_fresh`: by dp_rank, whether its report counts."""
        self._ledger = ledger
        self._is_fresh = is_fresh
        self._unstarted = unstarted
        self.states: list[GroupState | None] = [None] * num_slots
        """As the table has them; None: nobody is there."""
        self._factors: list[float | None] = [None] * num_slots  # load_factor of backends
        self.loads = [GroupLoad(dp_rank, 0, 0, 0, 0) for dp_rank in range(num_slots)]
        self.max_requests = [0] * num_slots
        """Requests that each group may have now: none unless it is ready."""
        self.limits = [_UNLIMITED] * num_slots
        """The same by its last report, however old and whatever it does."""
        self.num_seatings = 0
        """Times that somebody came, went, or changed state, for who remembers how it stands."""
        self.groups_wait = False
        """Whether groups wait for each other at every step."""

    def __repr__(self) -> str:
        return _seated(self.states, self.loads)

    def seat(self, entry: GroupEntry, state: GroupState) -> None:
        """That group has the slot, in that state."""
        self.num_seatings += 1
        self.states[entry.dp_rank] = state
        self._factors[entry.dp_rank] = entry.load_factor if entry.is_backend else None
        self.weigh(entry.dp_rank)

    def vacate(self, dp_rank: int) -> None:
        """Nobody has the slot."""
        self.num_seatings += 1
        self.states[dp_rank] = self._factors[dp_rank] = None
        self.weigh(dp_rank)

    def weigh(self, dp_rank: int) -> None:
        """Work out the group's load, and what it may still take, from what is known now."""
        ledger = self._ledger
        report, factor = ledger.report(dp_rank), self._factors[dp_rank]
        fresh = report if self._is_fresh[dp_rank] else None
        uncached = self._unstarted.tokens[dp_rank]
        self.loads[dp_rank] = load_of(
            ledger, dp_rank, fresh, factor, uncached, groups_wait=self.groups_wait
        )
        limit = _UNLIMITED if report is None else report.max_requests
        self.limits[dp_rank] = limit
        self.max_requests[dp_rank] = limit if self.states[dp_rank] is _READY else 0

    def weigh_all(self) -> None:
        """Every slot."""
        for dp_rank in range(len(self.loads)):
            self.weigh(dp_rank)

    def is_booked(self, dp_rank: int) -> bool:
        """Whether the group is weighed with the books: a backend is, whatever it reports."""
        return self._factors[dp_rank] is not None or not self._is_fresh[dp_rank]

    def num_ready(self) -> int:
        """Groups that the table says are ready."""
        return sum(state is _READY for state in self.states)


def _seated(states: States, loads: Sequence[GroupLoad]) -> str:
    pairs = zip(states, loads, strict=True)
    told = (f"{load.dp_rank}:{state} {load.tokens}" for state, load in pairs if state is not None)
    return f"[{', '.join(told)}]"
