"""
`/admin` where groups are backends: what an operator may do to who they are.

What is asked for takes effect at once or in a while (an engine has to say what it is, requests
have to end), so it is answered 202, and `GET /admin/backends` tells how far it is.  Workers of
ours are as many as the instance was started with: 409, and why.
"""

from __future__ import annotations

import time
from enum import StrEnum

from fastapi import APIRouter, FastAPI, Response
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, Field

from router.backends.backend import LEAST_WEIGHT, MOST_WEIGHT, Backend, Kind, parse_backend
from router.control_plane.engines import Engine
from router.control_plane.enrolled import Enrolled
from router.control_plane.standing import REFUSALS, Standing, no_group

_WHERE = "/admin/backends"
_OURS = (
    "the DP groups are workers of ours, as many as the instance was started with (--dp-size): "
    "only backends come and go"
)


class Newcomer(BaseModel):
    """A backend that is to be added."""

    backend: str = Field(
        description="As --backend says it: URL[,kind=...][,dp-size=N][,weight=W][,...]"
    )


class Weight(BaseModel):
    """What share of the load each of a backend's groups takes."""

    weight: float = Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT, allow_inf_nan=False, strict=True)


class Course(StrEnum):
    """How far a backend is."""

    LOOKING = "looking"
    """It has not said yet what it is, or there is no slot for it."""
    SERVING = "serving"
    """It has slots; the groups' states say how they do."""
    LEAVING = "leaving"
    """It gets no request any more, and finishes what it has."""


class BackendStanding(BaseModel):
    """A backend that is wanted, or that has not left yet."""

    backend: str = Field(description="Its URL")
    course: Course
    sources: list[str] = Field(description="Who names it; the settings are the first one's")
    kind: Kind | None
    weight: float
    dp_ranks: list[int] = Field(description="Its DP groups")
    epoch: int | None = Field(description="Of these groups")
    open_requests: int = Field(description="Ours, as far as front doors have noted")
    age_s: float | None = Field(description="Since it got its slots")
    problem: str | None = Field(description="Why it serves nobody yet, as far as it is known")


class Taken(BaseModel):
    """What was asked for is under way."""

    backend: str = Field(description="Its URL")
    dp_ranks: list[int]
    look_at: str = Field(_WHERE, description="Where to see how far it is")


def add_backend_admin(app: FastAPI, enrolled: Enrolled | None) -> None:
    """Add the routes.  enrolled: None with workers of ours."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=REFUSALS)
    _add_lists(routes, enrolled)
    _add_comings(routes, enrolled)
    _add_goings(routes, enrolled)
    _add_changes(routes, enrolled)
    app.include_router(routes)


def _add_lists(routes: APIRouter, enrolled: Enrolled | None) -> None:
    @routes.get("/backends")
    async def backends() -> list[BackendStanding]:
        """Every backend that is wanted or has not left yet; none with workers of ours."""
        return [] if enrolled is None else _standings(enrolled)


def _add_comings(routes: APIRouter, enrolled: Enrolled | None) -> None:
    @routes.post("/groups", status_code=202)
    async def add(newcomer: Newcomer, response: Response) -> Taken:
        """
        Add a backend: it is asked what it is until it says so, and then its groups serve.

        409 if it is there already, or no slot is free; 400 if it is none.
        """
        enrolment = _there(enrolled).enrolment
        backend = _addable(newcomer.backend, _there(enrolled))
        needed = backend.dp_size or 1
        if backend.url in enrolment.roster.wanted:
            raise HTTPException(409, f"{backend.url} is there already: see {_WHERE}")
        if enrolment.engines.num_free < needed and enrolment.engines.at(backend.url) is None:
            raise HTTPException(
                409,
                f"no free slot: {backend.url} needs {needed}, {enrolment.engines.num_free} of "
                f"{enrolment.engines.num_slots} are free (--max-groups)",
            )
        enrolment.roster.add(backend)
        enrolment.review()
        return _taken(enrolment.engines.at(backend.url), backend.url, response)


def _add_goings(routes: APIRouter, enrolled: Enrolled | None) -> None:
    @routes.delete("/groups/{dp_rank}", status_code=202)
    async def remove(dp_rank: int, response: Response, force: bool = False) -> Taken:
        """
        Remove the group's backend, with all its ranks: no new request, and its slots are freed.

        When what it has is finished, or after --drain-timeout-s; with `force` at once.  What is
        open then runs out where it is.
        """
        found = _engine(_there(enrolled), dp_rank)
        enrolment = _there(enrolled).enrolment
        if not found.is_leaving:
            enrolment.roster.delete(found.url)
            enrolment.review()
        if force:
            enrolment.free([found])
        return _taken(found, found.url, response)

    @routes.delete("/backends", status_code=202)
    async def forget(backend: str, response: Response) -> Taken:
        """Remove the backend of that URL, also one that is no group yet."""
        enrolment = _there(enrolled).enrolment
        url = _parsed(backend).url
        if url not in enrolment.roster.wanted:
            raise HTTPException(404, f"{url} is not wanted: see {_WHERE}")
        engine = enrolment.engines.at(url)
        enrolment.roster.delete(url)
        enrolment.review()
        return _taken(engine, url, response)


def _add_changes(routes: APIRouter, enrolled: Enrolled | None) -> None:
    @routes.patch("/groups/{dp_rank}", status_code=202)
    async def reweigh(dp_rank: int, wanted: Weight, response: Response) -> Taken:
        """Give the group's backend another weight; 409 if it is leaving."""
        engine = _staying(_there(enrolled), dp_rank)
        enrolment = _there(enrolled).enrolment
        enrolment.roster.reweigh(engine.url, wanted.weight)
        enrolment.review()
        return _taken(engine, engine.url, response)

    @routes.post("/groups/{dp_rank}/undrain", status_code=202)
    async def undrain(dp_rank: int) -> Standing:
        """
        Give the group requests again, from its next good answer on.

        202 also if it was not draining; 409 if its backend is leaving.
        """
        _staying(_there(enrolled), dp_rank)
        entry = _there(enrolled).membership.undrain(dp_rank)
        return Standing(dp_rank=dp_rank, state=entry.state, epoch=entry.epoch)


def _there(enrolled: Enrolled | None) -> Enrolled:
    if enrolled is None:
        raise HTTPException(409, _OURS)
    return enrolled


def _parsed(text: str) -> Backend:
    try:
        backend = parse_backend(text)
    except ValueError as error:
        raise HTTPException(400, f"backend: {error}") from None
    if backend.api_key_env is not None:  # any variable could be sent anywhere
        raise HTTPException(400, "backend: api-key-env is for flags and files alone")
    return backend


def _addable(text: str, enrolled: Enrolled) -> Backend:
    backend = _parsed(text)
    why = enrolled.lacks.of_events(backend)
    if why is not None:
        raise HTTPException(400, f"backend: {why}")
    return backend


def _engine(enrolled: Enrolled, dp_rank: int) -> Engine:
    """Raises HTTPException, 404."""
    engine = enrolled.enrolment.engines.of_slot(dp_rank)
    if engine is None:
        raise no_group(dp_rank, enrolled.membership.groups)
    return engine


def _staying(enrolled: Enrolled, dp_rank: int) -> Engine:
    """Raises HTTPException, 404 or 409."""
    engine = _engine(enrolled, dp_rank)
    if engine.is_leaving:
        raise HTTPException(409, f"{engine.url}, DP group {dp_rank}, is leaving: see {_WHERE}")
    return engine


def _taken(engine: Engine | None, url: str, response: Response) -> Taken:
    response.headers["location"] = _WHERE
    return Taken(backend=url, dp_ranks=list(engine.slots) if engine else [], look_at=_WHERE)


def _standings(enrolled: Enrolled) -> list[BackendStanding]:
    enrolment, wanted = enrolled.enrolment, enrolled.enrolment.roster.wanted
    serving = {engine.url for engine in enrolment.engines if not engine.is_leaving}
    told = [_of_engine(engine, enrolled) for engine in enrolment.engines]
    for url, each in wanted.items():
        if url not in serving:
            told.append(
                BackendStanding(
                    backend=url,
                    course=Course.LOOKING,
                    sources=list(each.sources),
                    kind=each.backend.kind,
                    weight=each.backend.weight,
                    dp_ranks=[],
                    epoch=None,
                    open_requests=0,
                    age_s=None,
                    problem=enrolment.newcomers.problem(url) or None,
                )
            )
    return told


def _of_engine(engine: Engine, enrolled: Enrolled) -> BackendStanding:
    wanted = enrolled.enrolment.roster.wanted.get(engine.url)
    return BackendStanding(
        backend=engine.url,
        course=Course.LEAVING if engine.is_leaving else Course.SERVING,
        sources=[] if wanted is None or engine.is_leaving else list(wanted.sources),
        kind=engine.kind,
        weight=engine.backend.weight,
        dp_ranks=list(engine.slots),
        epoch=engine.epoch,
        open_requests=enrolled.enrolment.num_open(engine),
        age_s=time.time() - engine.since_s,
        problem=None,
    )
