"""What front doors counted, beside the loads of the groups: for who looks at all of it live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from router.instance import Instance


class Latencies(BaseModel):
    """A histogram since the front door's start."""

    bounds: list[float] = Field(description="Upper bounds in seconds; the last count has none")
    counts: list[int] = Field(description="Observations of each bound alone, not cumulative")
    total: float = Field(description="Sum of all observations in seconds")


class DoorFigures(BaseModel):
    """One front door that answers.  Counts are since its start."""

    slot: int
    epoch: int = Field(description="Changes when the front door is started anew")
    open_connections: int
    open_requests: int
    waiting_requests: int = Field(description="Requests that wait or are held in the front door")
    responses: dict[str, int] = Field(description="Answers to inference requests, by status")
    prompt_tokens: int
    streamed_tokens: int = Field(description="Pieces of streams passed on; most have one token")
    dispatches: list[int] = Field(description="Requests assigned, by dp_rank")
    stale_groups: list[int] = Field(description="dp_ranks whose figures were found too old")
    ttft_s: Latencies
    inter_token_s: Latencies
    end_to_end_s: Latencies
    decision_s: Latencies


class FrontDoors(BaseModel):
    """The instance, and its front doors that answer."""

    instance: str
    instance_epoch: int = Field(description="Changes when the instance is started anew")
    method: str
    max_load_age_s: float = Field(description="Age beyond which a group's figures do not count")
    num_front_doors: int
    doors: list[DoorFigures]


def front_doors_of(instance: Instance, meters: Sequence[dict[str, Any] | None]) -> FrontDoors:
    """Out of the meters by slot (see router.control_plane.front_doors)."""
    return FrontDoors(
        instance=instance.name,
        instance_epoch=instance.epoch,
        method=instance.method,
        max_load_age_s=instance.max_load_age_s,
        num_front_doors=instance.num_front_doors,
        doors=[_of_door(door) for door in meters if door is not None],
    )


def _of_door(told: dict[str, Any]) -> DoorFigures:
    taken = {name: told[name] for name in DoorFigures.model_fields if name in told}
    stale = [dp_rank for dp_rank, is_stale in enumerate(told["stale_groups"]) if is_stale]
    # The first piece of a stream is in the one histogram, all others in the other.
    pieces = sum(told["ttft_s"]["counts"]) + sum(told["inter_token_s"]["counts"])
    prompts = sum(told["prompt_tokens"].values())
    return DoorFigures.model_validate(
        taken | {"stale_groups": stale, "prompt_tokens": prompts, "streamed_tokens": pieces}
    )
