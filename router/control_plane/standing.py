"""How a DP group stands, as `/admin` tells it, and what is said of one that there is not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi.exceptions import HTTPException
from pydantic import BaseModel, Field

from shm.group_table import GroupEntry, GroupState


class Refusal(BaseModel):
    """An error, in OpenAI's shape."""

    class Error(BaseModel):
        """What is wrong."""

        message: str
        type: str
        param: str | None
        code: str | int | None

    error: Error


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "Not what is asked for here"},
    404: {"model": Refusal, "description": "There is no such group"},
    409: {"model": Refusal, "description": "Not as things stand"},
    "default": {"model": Refusal, "description": "Any other error"},
}


class Standing(BaseModel):
    """A DP group as the group table has it."""

    dp_rank: int
    state: GroupState
    epoch: int = Field(description="Incarnation of the group; 0 while it was never ready")


def no_group(dp_rank: int, groups: Collection[GroupEntry]) -> HTTPException:
    """There is none of that number; names those that there are."""
    ranks = sorted(entry.dp_rank for entry in groups)
    if not ranks:
        there = "there is none"
    elif ranks == list(range(len(ranks))):
        there = f"there are 0 to {len(ranks) - 1}"
    else:
        there = f"there are {', '.join(map(str, ranks))}"
    return HTTPException(404, f"there is no DP group {dp_rank}: {there}")
