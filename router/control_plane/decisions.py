"""
`/admin/decisions`: why requests went where they did.

Front doors keep facts (router.front_door.decision_log); here they are asked for them, and what
they tell is put in order of time and into words.  One that does not answer is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import FastAPI, Path, Query
from fastapi.exceptions import HTTPException

from router.control_plane.decision_words import DecisionsTold, newest
from router.control_plane.standing import REFUSALS
from router.instance import Instance

_log = logging.getLogger("levelhead.control_plane")
_TIMEOUT_S = 2.0
_MAX_LIMIT = 1000
_USUAL_LIMIT = 20
_MAX_ATTEMPTS = 1000
_BALANCE_ID = "^[0-9a-f]{16}$"


class _Answers(NamedTuple):
    """What front doors told, and which of them told nothing."""

    answers: list[dict[str, Any]]
    silent: list[int]


def add_decisions(app: FastAPI, instance: Instance) -> None:
    """Add the routes."""

    @app.get("/admin/decisions", tags=["admin"], responses=REFUSALS)
    async def decisions(
        limit: Annotated[int, Query(ge=1, le=_MAX_LIMIT)] = _USUAL_LIMIT,
        group: Annotated[int | None, Query(ge=0, description="Only those for this dp_rank")] = None,
    ) -> DecisionsTold:
        """The last decisions, the newest first, with what each was made on and why."""
        if group is not None and group >= instance.num_slots:
            there = f"dp_ranks are 0 to {instance.num_slots - 1}"
            raise HTTPException(404, f"there is no DP group {group}: {there}")
        answers, silent = await _asked(instance, [limit, group, None])
        return DecisionsTold(decisions=newest(answers, limit), silent_front_doors=silent)

    @app.get("/admin/decisions/{dp_balance_id}", tags=["admin"], responses=REFUSALS)
    async def decision(dp_balance_id: Annotated[str, Path(pattern=_BALANCE_ID)]) -> DecisionsTold:
        """
        The decision of that dp_balance_id, and those of the same request's other attempts.

        A client finds it in the header `x-levelhead-dp-balance-id` of its answer.  503 if a front
        door that may know it does not answer.
        """
        answers, silent = await _asked(instance, [_MAX_ATTEMPTS, None, dp_balance_id])
        found = newest(answers, _MAX_ATTEMPTS)
        if not found:
            raise _unknown(instance, dp_balance_id, silent)
        found.sort(key=lambda each: each.attempt)
        return DecisionsTold(decisions=found, silent_front_doors=silent)


def _unknown(instance: Instance, dp_balance_id: str, silent: Sequence[int]) -> HTTPException:
    """Nobody who answers knows that one."""
    said = f"no decision {dp_balance_id} is kept"
    if silent:
        who = ", ".join(map(str, silent))
        return HTTPException(
            503, f"{said} by those that answer; front door {who} does not", {"retry-after": "1"}
        )
    kept = f"each of {instance.num_front_doors} front door(s) keeps its last"
    return HTTPException(404, f"{said}: {kept} {instance.max_decisions:,} (--max-decisions)")


async def _asked(instance: Instance, wanted: Sequence[Any]) -> _Answers:
    slots = range(instance.num_front_doors)
    question = orjson.dumps(wanted) + b"\n"
    answers = await asyncio.gather(
        *(_ask(instance.decisions_socket(slot), question) for slot in slots)
    )
    silent = [slot for slot, answer in zip(slots, answers, strict=True) if answer is None]
    return _Answers([answer for answer in answers if answer is not None], silent)


async def _ask(path: str, question: bytes) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(question)
                answer = await reader.read()
            finally:
                writer.close()
        told: dict[str, Any] = orjson.loads(answer)
    except (OSError, orjson.JSONDecodeError) as error:
        _log.debug("no decisions from %s: %s", path, error)
        return None
    return told
