"""
`/admin/groups/{dp_rank}/release_memory_occupation` and `resume_memory_occupation`.

The group's leader does it (workers/server/occupation.py), and says in its card how it stands;
here it is found and asked, and its answer passed on.  How long it may take is the leader's
to say, so it is waited for as long as its process is there and the wait is bounded.
"""

from __future__ import annotations

from typing import Literal

import httpx
from fastapi import APIRouter, FastAPI, Response
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from router.control_plane.members import Members
from router.control_plane.standing import REFUSALS, no_group
from shm.group_table import GroupEntry, GroupState

Tag = Literal["kv_cache", "weights"]
_MAX_TIMEOUT_S = 3600.0
_LOADING_LIMIT_S = 1800.0
_CONNECT_LIMIT_S = 5.0
_COMING_OR_GOING = (GroupState.STARTING, GroupState.DRAINING, GroupState.DEAD)


class Tags(BaseModel):
    """What to take back."""

    model_config = ConfigDict(extra="forbid")

    tags: list[Tag] | None = Field(default=None, min_length=1, description="Omitted: both")


class Release(Tags):
    """What to give back."""

    timeout_s: float | None = Field(
        default=None,
        ge=0,
        le=_MAX_TIMEOUT_S,
        description="For what the group holds, 0: nothing may be held; omitted: --drain-timeout-s",
    )


class Occupation(BaseModel):
    """What has become of a group's memory."""

    dp_rank: int
    released_tags: list[Tag] = Field(description="What is given back now")
    changed_tags: list[Tag] = Field(description="What of it this has changed")
    num_bytes: int = Field(description="Of what has changed")


class OccupationClient:
    """Asks leaders.  `client` is for this alone."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, entry: GroupEntry, what: str, body: Tags) -> Response:
        """The leader's answer.  Raises HTTPException, 502, if it has none."""
        limit = httpx.Timeout(_MAX_TIMEOUT_S + _LOADING_LIMIT_S, connect=_CONNECT_LIMIT_S)
        try:
            answer = await self._client.post(
                f"http://{entry.host}:{entry.port}/{what}_memory_occupation",
                json=body.model_dump(exclude_none=True),
                headers={"x-levelhead-group-epoch": str(entry.epoch)},
                timeout=limit,
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise HTTPException(502, f"DP group {entry.dp_rank} was lost: {reason}") from error
        if answer.status_code != httpx.codes.OK:
            media_type = answer.headers.get("content-type")
            return Response(answer.content, answer.status_code, media_type=media_type)
        told = Occupation(dp_rank=entry.dp_rank, **answer.json())
        return Response(told.model_dump_json(), media_type="application/json")


def add_occupation(app: FastAPI, membership: Members, client: OccupationClient) -> None:
    """Add the routes."""
    routes = APIRouter(prefix="/admin/groups/{dp_rank}", tags=["admin"], responses=REFUSALS)

    @routes.post("/release_memory_occupation", response_model=Occupation)
    async def release(dp_rank: int, body: Release | None = None) -> Response:
        """
        Have the group give its KV cache and its weights back once it holds no request.

        It gets no new one meanwhile, and its process lives on.  409 if requests are left when
        timeout_s is over, and then it serves as before.
        """
        return await client.ask(_entry(membership, dp_rank), "release", body or Release())

    @routes.post("/resume_memory_occupation", response_model=Occupation)
    async def resume(dp_rank: int, body: Tags | None = None) -> Response:
        """Have the group take its memory again; with all of it, it serves."""
        return await client.ask(_entry(membership, dp_rank), "resume", body or Tags())

    app.include_router(routes)


def _entry(membership: Members, dp_rank: int) -> GroupEntry:
    """Raises HTTPException, 404 or 409."""
    for entry in membership.groups:
        if entry.dp_rank != dp_rank:
            continue
        if entry.is_backend:
            raise HTTPException(409, f"DP group {dp_rank} is a backend: ask its engine itself")
        if entry.state in _COMING_OR_GOING:
            message = f"DP group {dp_rank} is {entry.state}: its memory stays as it is"
            raise HTTPException(409, message)
        return entry
    raise no_group(dp_rank, membership.groups)
