"""
`POST /tokenize`: passed to a ready group, a bounded number at a time.

A slow group would else gather here whatever clients like to send, each with a
body in memory and a connection.
"""

from __future__ import annotations

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException

from router.control_plane.members import Members
from shm.group_table import GroupEntry, GroupState

_MAX_OPEN = 32
_TIMEOUT_S = 30.0


class Tokenizing:
    """Asks groups for token ids; owns the places for those who wait."""

    def __init__(self, client: httpx.AsyncClient, max_open: int = _MAX_OPEN) -> None:
        """`client` is for this alone, and must allow max_open connections."""
        self._client = client
        self._max_open = max_open
        self._num_open = 0

    async def answer(self, request: Request, entry: GroupEntry) -> Response:
        """That group's answer to the request.  Raises HTTPException, 502 or 503."""
        if self._num_open >= self._max_open:
            raise HTTPException(
                503,
                f"{self._num_open} prompts are being tokenized, which is the limit",
                headers={"retry-after": "1"},
            )
        self._num_open += 1
        try:
            return await self._ask(entry, await request.body())
        finally:
            self._num_open -= 1

    async def _ask(self, entry: GroupEntry, body: bytes) -> Response:
        try:
            answer = await self._client.post(
                f"http://{entry.host}:{entry.port}/tokenize",
                content=body,
                headers={"content-type": "application/json"},
                timeout=_TIMEOUT_S,
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise HTTPException(502, f"DP group {entry.dp_rank} was lost: {reason}") from error
        media_type = answer.headers.get("content-type")
        return Response(answer.content, answer.status_code, media_type=media_type)


def add_tokenize(app: FastAPI, membership: Members, tokenizing: Tokenizing) -> None:
    """Add the route."""

    @app.post("/tokenize", tags=["engine"])
    async def tokenize(request: Request) -> Response:
        """Token ids of a prompt or of a conversation, from any ready group."""
        return await tokenizing.answer(request, any_ready(membership.groups))


def any_ready(groups: tuple[GroupEntry, ...]) -> GroupEntry:
    """A group that can be asked.  Raises HTTPException, 503."""
    for entry in groups:
        if entry.state is GroupState.READY:
            return entry
    raise HTTPException(503, "no DP group is ready", headers={"retry-after": "1"})
