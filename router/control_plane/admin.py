"""
`/admin`: what an operator may do to the groups.

Who may call this is the front doors' business (see router.front_door.access);
the control plane's socket is in a folder of this user alone.
"""

from __future__ import annotations

import time

from fastapi import FastAPI
from fastapi.exceptions import HTTPException
from pydantic import Field

from router.control_plane.backend_admin import add_backend_admin
from router.control_plane.enrolled import Enrolled
from router.control_plane.figures import Figures, GroupFigures
from router.control_plane.members import Members
from router.control_plane.standing import REFUSALS, Standing, no_group
from shm.group_table import GroupState


class Group(Standing):
    """A DP group with its address and its load."""

    host: str
    port: int
    engine: str = Field(description="Kind of a backend's engine; empty: a worker of ours")
    engine_rank: int | None = Field(description="Its DP rank in an engine that has several")
    open_requests: int = Field(description="Running, waiting and in flight, as far as reported")
    models: list[str] = Field(description="Names that it serves, and no others; none: not known")
    weight: float | None = Field(description="Of a backend: its share of the load")
    sources: list[str] = Field(description="Who names a backend; none: it is leaving, or ours")
    age_s: float | None = Field(description="Of a backend: since it got its slot")


def add_admin(
    app: FastAPI, membership: Members, figures: Figures, enrolled: Enrolled | None
) -> None:
    """Add the routes.  enrolled: who the backends are; None with workers of ours."""
    add_backend_admin(app, enrolled)

    @app.get("/admin/groups", tags=["admin"])
    async def groups() -> list[Group]:
        """Every DP group: where it is, its state, and how much it has to do."""
        return [_group(each, enrolled) for each in figures.read(membership.groups)]

    @app.post("/admin/groups/{dp_rank}/drain", status_code=202, tags=["admin"], responses=REFUSALS)
    async def drain(dp_rank: int) -> Standing:
        """
        Give the group no new request, let it finish what it has, then restart it.

        A backend is not restarted: that is its operator's to do, or to undrain it.
        202 also if it is draining already; 409 if nobody is there to drain.
        """
        if dp_rank not in {entry.dp_rank for entry in membership.groups}:
            raise no_group(dp_rank, membership.groups)
        entry = membership.drain(dp_rank)
        if entry.state is not GroupState.DRAINING:
            raise HTTPException(409, f"DP group {dp_rank} is {entry.state}: it cannot drain")
        return Standing(dp_rank=dp_rank, state=entry.state, epoch=entry.epoch)


def _group(group: GroupFigures, enrolled: Enrolled | None) -> Group:
    entry, report = group.entry, group.report
    engine = enrolled.enrolment.engines.of_epoch(entry.epoch) if enrolled else None
    wanted = enrolled.enrolment.roster.wanted if enrolled else {}
    is_wanted = engine is not None and not engine.is_leaving and engine.url in wanted
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
        models=list(entry.models or filter(None, [entry.model])),
        weight=engine.backend.weight if engine else None,
        sources=list(wanted[engine.url].sources) if engine and is_wanted else [],
        age_s=time.time() - engine.since_s if engine else None,
    )
