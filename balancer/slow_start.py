"""
Slow start: a group that joins others which serve already grows into its share.

    share of a group = 0.1 at first, 1 when it has served for the ramp;  in ten steps
    factor           = largest share of any group that serves / its own

What a group holds is multiplied by its factor before a policy sees it.  So a newcomer is level
with the others when it holds a tenth of what they hold, then two tenths, and so on: without this,
methods that weigh would send it every request until it holds as much as they do, into cold
caches and kernels that are not compiled.  What looks at no load (round_robin, random), or at
reports alone (total_tokens, vllm_score), slows nobody.

Only what is relative matters: groups that became ready within a tenth of the ramp of the one
that has served longest count as begun with it, and where all did every factor is 1; so do those
that were ready before anybody could choose, however long each took to start.  A group that
was suspect goes on where it was; one that was dead, or begins a new epoch, begins anew: the group
table says since when each has been ready.

Limits, room and books know nothing of it.  Between two steps a look costs one comparison.
Time is handed in, on the table's clock.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from balancer.load import GroupLoad
from shm.group_table import GroupState

FIRST_SHARE = 0.1
NUM_STEPS = 10
_SERVING = (GroupState.READY, GroupState.SUSPECT)
_NEVER_NS = 1 << 63


class SlowStart:
    """Knows which groups serve since when, and what that makes their loads weigh."""

    def __init__(self, ramp_ns: int, began_ns: int = 0) -> None:
        """
        `ramp_ns`: 0, and nobody is slowed.

        `began_ns`: when whoever chooses began to; who was ready by then has begun with it.
        """
        self._ramp_ns = ramp_ns
        self._began_ns = began_ns
        self._since_ns: dict[int, int] = {}
        self._factors: dict[int, float] = {}
        """Of those that are not 1."""
        self._next_ns = _NEVER_NS
        """When a factor changes, if nobody comes or goes."""

    def observe_group(self, dp_rank: int, state: GroupState, ready_since_ns: int) -> None:
        """Take over a row of the group table; it counts from the next observe_time on."""
        now = max(ready_since_ns, self._began_ns) if state in _SERVING else None
        if self._since_ns.get(dp_rank) == now or not self._ramp_ns:
            return
        if now is None:
            del self._since_ns[dp_rank]
        else:
            self._since_ns[dp_rank] = now
        self._next_ns = 0

    def observe_absence(self, dp_rank: int) -> None:
        """Nobody has that slot any more."""
        self.observe_group(dp_rank, GroupState.DEAD, 0)

    def observe_time(self, now_ns: int) -> None:
        """It is that late now."""
        if now_ns >= self._next_ns:
            self._reckon(now_ns)

    def weighed(self, loads: Sequence[GroupLoad]) -> Sequence[GroupLoad]:
        """The loads as a policy is to see them."""
        factors = self._factors
        if not factors:
            return loads
        return [
            _times(load, factors[load.dp_rank]) if load.dp_rank in factors else load
            for load in loads
        ]

    def factor(self, dp_rank: int) -> float:
        """What that group's load is multiplied by."""
        return self._factors.get(dp_rank, 1.0)

    @property
    def slowed(self) -> Mapping[int, float]:
        """The factors that are not 1, by dp_rank; another mapping whenever they change."""
        return self._factors

    def factors(self) -> dict[int, float]:
        """The same of all groups that serve, by dp_rank; of none if nobody is ever slowed."""
        return {dp_rank: self.factor(dp_rank) for dp_rank in self._since_ns}

    def _reckon(self, now_ns: int) -> None:
        self._factors, self._next_ns = {}, _NEVER_NS
        if not self._since_ns:
            return
        step_ns = max(1, self._ramp_ns // NUM_STEPS)
        first_ns = min(self._since_ns.values())
        shares = {}
        for dp_rank, since_ns in self._since_ns.items():
            begun_ns = first_ns if since_ns - first_ns < step_ns else since_ns
            num_steps = max(0, now_ns - begun_ns) // step_ns
            shares[dp_rank] = _share(num_steps)
            if num_steps < NUM_STEPS:
                self._next_ns = min(self._next_ns, begun_ns + (num_steps + 1) * step_ns)
        largest = max(shares.values())
        self._factors = {rank: largest / share for rank, share in shares.items() if share < largest}


def _share(num_steps: int) -> float:
    return FIRST_SHARE + (1 - FIRST_SHARE) * min(num_steps, NUM_STEPS) / NUM_STEPS


def _times(load: GroupLoad, factor: float) -> GroupLoad:
    dp_rank, *figures = load
    return GroupLoad(dp_rank, *(round(figure * factor) for figure in figures))
