"""`GET /v1/loads`: load per DP group, under SGLang's field names with ours beside them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

from router.backends.readings.reading import Condition
from router.control_plane.door_figures import FrontDoors
from router.control_plane.figures import GroupFigures, imbalance
from router.control_plane.kv_events.condition import KvCondition
from shm.group_table import GroupState


class GroupLoads(BaseModel):
    """One DP group.  Fields of the report are null while the group has reported nothing."""

    dp_rank: int
    state: GroupState
    num_running_reqs: int | None
    num_waiting_reqs: int | None
    num_waiting_uncached_tokens: int | None = Field(
        description="Prompt tokens not computed yet, the remainder of a chunked prompt included"
    )
    num_used_tokens: int | None = Field(description="KV tokens of running requests")
    num_total_tokens: int | None = Field(description="Holding tokens: KV plus waiting prompts")
    max_total_num_tokens: int | None = Field(description="KV capacity in tokens")
    token_usage: float | None = Field(description="num_used_tokens / max_total_num_tokens")
    holding_tokens: int | None = Field(description="The same as num_total_tokens")
    in_flight_tokens: int = Field(description="Sent to the group, not yet in holding_tokens")
    in_flight_requests: int
    load_tokens: int | None = Field(
        default=None,  # as earlier versions had it
        description="What is compared: holding + in-flight; of a backend, whose holding has what "
        "is in flight in it, the books and what it holds beyond them",
    )
    step_time_ms: float | None
    num_steps: int | None
    age_s: float | None = Field(description="Since the report was sampled")
    condition: Condition | None = Field(
        description="Why a backend's own figures are not used; null if they are, or if it has none"
    )
    kv_condition: KvCondition | None = Field(
        description="Why nothing is known of a backend's prefix cache; null if it is, or need not"
    )
    epoch: int = Field(description="Incarnation of the group")


class Loads(BaseModel):
    """All DP groups."""

    timestamp: float = Field(description="Seconds since 1970")
    dp_rank_count: int
    imbalance: float = Field(description="Largest over mean of holding + in-flight; 1 is level")
    loads: list[GroupLoads]
    front_doors: FrontDoors | None = Field(
        default=None, description="With `?front_doors=true`: what they counted; else null"
    )


def loads_of(
    figures: list[GroupFigures],
    timestamp_s: float,
    kv_conditions: Mapping[int, KvCondition] | None = None,
) -> Loads:
    """The answer for those figures, and what is wrong with whose KV events."""
    wrong = kv_conditions or {}
    return Loads(
        timestamp=timestamp_s,
        dp_rank_count=len(figures),
        imbalance=imbalance(figures),
        loads=[_of_group(group, wrong.get(group.entry.dp_rank)) for group in figures],
    )


def _of_group(group: GroupFigures, kv_condition: KvCondition | None) -> GroupLoads:
    report = group.report
    steps = None if group.entry.is_backend else report  # which nobody tells of other engines
    return GroupLoads(
        dp_rank=group.entry.dp_rank,
        state=group.entry.state,
        num_running_reqs=report and report.running_requests,
        num_waiting_reqs=report and report.waiting_requests,
        num_waiting_uncached_tokens=steps and steps.waiting_uncached_tokens,
        num_used_tokens=report and report.kv_used_tokens,
        num_total_tokens=report and report.holding_tokens,
        max_total_num_tokens=report and report.kv_capacity_tokens,
        token_usage=report and report.kv_used_tokens / max(1, report.kv_capacity_tokens),
        holding_tokens=report and report.holding_tokens,
        in_flight_tokens=group.in_flight.tokens,
        in_flight_requests=group.in_flight.requests,
        load_tokens=group.tokens,
        step_time_ms=steps and steps.step_time_ns / 1e6,
        num_steps=steps and steps.num_steps,
        age_s=group.age_s,
        condition=group.condition,
        kv_condition=kv_condition,
        epoch=group.entry.epoch,
    )
