"""
`POST /release_memory_occupation` and `POST /resume_memory_occupation`, as SGLang has them.

    release ─► card: released ─► ask the step loop until nothing is held ─► given back
                                  └─ limit over: card: ready, 409
    resume  ─► the step loop reads and warms up ─► card: ready

The card comes first: the control plane takes the group out of the table, and whoever holds a
request here goes on until it has its answer, as long as timeout_s allows.  What front doors
still send until they have heard of it is served as well, and after that refused with 503,
before anything was computed: then they send it to another group.

One change at a time: a second one waits for the first, and finds what that has left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from workers.card import State
from workers.engine.occupation import Change, Occupation
from workers.errors import GroupBusy
from workers.model.errors import ModelError
from workers.model.resident import Part
from workers.server.client import EngineClient
from workers.server.errors import ApiError

logger = logging.getLogger("levelhead.workers.server")

_T = TypeVar("_T")

ASK_AGAIN_S = 0.02
MAX_TIMEOUT_S = 3600.0


class TagsBody(BaseModel):
    """Body of both.  tags: all, if omitted."""

    model_config = ConfigDict(extra="forbid")

    tags: list[Part] | None = Field(default=None, min_length=1)

    @property
    def parts(self) -> frozenset[Part]:
        """What is meant."""
        return frozenset(Part if self.tags is None else self.tags)


class ReleaseBody(TagsBody):
    """timeout_s: for the requests that are held; 0 refuses if there are any."""

    timeout_s: float | None = Field(default=None, ge=0, le=MAX_TIMEOUT_S)


class Surroundings(NamedTuple):
    """
    Of the desk.

    announce: says to the instance in which state the leader is.  timeout_s: for requests that
    are held, if nobody says otherwise.
    """

    announce: Callable[[State], None]
    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep


class OccupationDesk:
    """The event loop's side of an Occupation, which the step loop alone may touch."""

    def __init__(self, occupation: Occupation, client: EngineClient, around: Surroundings) -> None:
        self._occupation = occupation
        self._client = client
        self._around = around
        self._lock = asyncio.Lock()

    async def release(self, body: ReleaseBody) -> Change:
        """Give memory back once nothing is held.  Raises NotReleased or Stopping."""
        async with self._lock:
            was_released = await self._ask(self._occupation.look)
            self._around.announce(State.RELEASED)
            try:
                change = await self._release(body)
            except BaseException:
                if not was_released:
                    self._around.announce(State.READY)
                raise
        _tell("released", change)
        return change

    async def resume(self, body: TagsBody) -> Change:
        """Have memory again.  Raises NotReleased, Stopping, or ApiError if it cannot be had."""
        async with self._lock:
            try:
                change = await self._ask(lambda: self._occupation.resume(body.parts))
            except (ModelError, OSError, RuntimeError) as error:
                logger.error("memory cannot be taken back: %s", error)
                raise ApiError(
                    500,
                    f"memory cannot be taken back, the group serves nobody until it is: {error}",
                    code="not_resumed",
                    kind="internal_server_error",
                ) from error
            if not change.released:
                self._around.announce(State.READY)
        _tell("took back", change)
        return change

    async def _release(self, body: ReleaseBody) -> Change:
        around = self._around
        limit_s = around.timeout_s if body.timeout_s is None else body.timeout_s
        end_s = around.clock() + limit_s
        while True:
            try:
                return await self._ask(lambda: self._occupation.release(body.parts))
            except GroupBusy:
                if around.clock() >= end_s:
                    raise
            await around.pause(ASK_AGAIN_S)

    async def _ask(self, act: Callable[[], _T]) -> _T:
        """Have the step loop do it; raises what that raises."""
        told: asyncio.Future[_T | Exception] = asyncio.get_running_loop().create_future()

        def tell(outcome: _T | Exception) -> None:
            if not told.done():
                told.set_result(outcome)

        self._client.look(lambda: _outcome(act), tell)
        outcome = await told
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _outcome(act: Callable[[], _T]) -> _T | Exception:
    """What the step loop brings back: it must not be broken by what fails here."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - raised again where it was asked for
        return error


def as_json(change: Change) -> dict[str, object]:
    """What the answer says."""
    return {
        "released_tags": sorted(change.released),
        "changed_tags": sorted(change.changed),
        "num_bytes": change.num_bytes,
    }


def _tell(what: str, change: Change) -> None:
    if change.changed:
        names, megabytes = ", ".join(sorted(change.changed)), change.num_bytes / 1e6
        logger.info("%s %s, %.0f MB", what, names, megabytes)
