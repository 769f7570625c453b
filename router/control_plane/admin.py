"""
`/admin`: what an operator may do to the groups.

Who may call this is the front doors' business (see router.front_door.access);
the control plane's socket is in a folder of this user alone.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, Field

from router.control_plane.figures import Figures, GroupFigures
from router.control_plane.members import Members
from shm.group_table import GroupState


class Standing(BaseModel):
    """A DP group as the group table has it."""

    dp_rank: int
    state: GroupState
    epoch: int = Field(description="Incarnation of the group; 0 while it was never ready")


class Group(Standing):
    """A DP group with its address and its load."""

    host: str
    port: int
    engine: str = Field(description="Kind of a backend's engine; empty: a worker of ours")
    engine_rank: int | None = Field(description="Its DP rank in an engine that has several")
    open_requests: int = Field(description="Running, waiting and in flight, as far as reported")


def add_admin(app: FastAPI, membership: Members, figures: Figures) -> None:
    """Add the routes."""

    @app.get("/admin/groups", tags=["admin"])
    async def groups() -> list[Group]:
        """Every DP group: where it is, its state, and how much it has to do."""
        return [_group(each) for each in figures.read(membership.groups)]

    @app.post("/admin/groups/{dp_rank}/drain", status_code=202, tags=["admin"])
    async def drain(dp_rank: int) -> Standing:
        """
        Give the group no new request, let it finish what it has, then restart it.

        202 also if it is draining already; 409 if nobody is there to drain.
        """
        num_groups = len(membership.groups)
        if not 0 <= dp_rank < num_groups:
            raise HTTPException(
                404, f"there is no DP group {dp_rank}: there are 0 to {num_groups - 1}"
            )
        entry = membership.drain(dp_rank)
        if entry.state is not GroupState.DRAINING:
            raise HTTPException(409, f"DP group {dp_rank} is {entry.state}: it cannot drain")
        return Standing(dp_rank=dp_rank, state=entry.state, epoch=entry.epoch)


def _group(group: GroupFigures) -> Group:
    entry, report = group.entry, group.report
    reported = report.running_requests + report.waiting_requests if report else 0
    flying = group.in_flight.requests
    return Group(
        dp_rank=entry.dp_rank,
        state=entry.state,
        epoch=entry.epoch,
        host=entry.host,
        port=entry.port,
        engine=entry.engine,
        engine_rank=entry.engine_rank,
        # What a backend says of its requests has ours in it.
        open_requests=max(reported, flying) if entry.is_backend else reported + flying,
    )
