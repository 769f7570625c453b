"""Which groups may be candidates by their state, and what to say if none can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from balancer.load import GroupLoad, RequestShape
from shm.group_table import GroupState

CANDIDATES = (GroupState.READY, GroupState.SUSPECT)


States = Sequence[GroupState | None]
"""By dp_rank; None: nobody has that slot."""


def why_none(states: States, asked: int | None, excluded: Collection[int]) -> str:
    """Why no group can take a request, or not the only one that was asked for."""
    reasons = {
        rank: _why_not(rank, state, excluded)
        for rank, state in enumerate(states)
        if state is not None
    }
    if asked is not None:
        return f"DP group {asked}, which was asked for, is {reasons.get(asked, 'not there')}"
    counts = Counter(reasons.values()).items()
    found = ", ".join(f"{count} {reason}" for reason, count in counts)
    return f"no DP group can take the request: {found or 'there is none'}"


def _why_not(dp_rank: int, state: GroupState, excluded: Collection[int]) -> str:
    if state not in CANDIDATES:
        return state.value
    return "excluded" if dp_rank in excluded else "full"


def able(
    loads: Sequence[GroupLoad],
    max_requests: Sequence[int],
    request: RequestShape,
    excluded: Collection[int],
) -> list[GroupLoad]:
    """Groups that may take the request; max_requests: 0 of those that are not ready."""
    candidates = [
        load
        for load, limit in zip(loads, max_requests, strict=True)
        if limit and load.held_requests + load.in_flight_requests < limit
    ]
    if excluded:
        candidates = [load for load in candidates if load.dp_rank not in excluded]
    if request.dp_rank is not None:
        candidates = [load for load in candidates if load.dp_rank == request.dp_rank]
    return candidates


def suspects(
    loads: Sequence[GroupLoad],
    states: States,
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
