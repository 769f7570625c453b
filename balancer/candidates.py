"""Which groups may be candidates by their state, and what to say if none can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from balancer.load import GroupLoad, RequestShape
from shm.group_table import GroupState

CANDIDATES = (GroupState.READY, GroupState.SUSPECT)


def why_none(states: Sequence[GroupState], asked: int | None, excluded: Collection[int]) -> str:
    """Why no group can take a request, or not the only one that was asked for."""
    reasons = [_why_not(rank, state, excluded) for rank, state in enumerate(states)]
    if asked is not None:
        return f"DP group {asked}, which was asked for, is {reasons[asked]}"
    found = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).items())
    return f"no DP group can take the request: {found}"


def _why_not(dp_rank: int, state: GroupState, excluded: Collection[int]) -> str:
    if state not in CANDIDATES:
        return state.value
    return "excluded" if dp_rank in excluded else "full"


def suspects(
    loads: Sequence[GroupLoad],
    states: Sequence[GroupState],
    limits: Sequence[int],
    request: RequestShape,
    excluded: Collection[int],
) -> list[GroupLoad]:
    """Suspect groups that may take the request, if it comes to that.  limits: of their requests."""
    return [
        load
        for load, state, limit in zip(loads, states, limits, strict=True)
        if state is GroupState.SUSPECT
        and load.dp_rank not in excluded
        and request.dp_rank in (None, load.dp_rank)
        and load.requests < limit
    ]
