"""A front door's facts of its decisions, as `/admin/decisions` tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from balancer.choice import Why
from balancer.decision import Decision, Source, Weighed
from balancer.methods import STANDS_FOR
from balancer.reasons import reason
from router.front_door.decision_log import Entry, Occasion

_NS_PER_S = 1e9


class CandidateTold(BaseModel):
    """A group that could take the request, as it was weighed."""

    dp_rank: int
    is_chosen: bool
    is_shortlisted: bool = Field(
        description="Whether the method could take it at all: it has slack, is not overloaded, or "
        "was drawn; true where the method compares all"
    )
    cost: float | None = Field(description="What was compared, in `cost_unit`: the least wins")
    holding_tokens: int
    in_flight_tokens: int
    held_requests: int = Field(description="Running and waiting")
    in_flight_requests: int
    waiting_requests: int | None = Field(
        description="Of held_requests, by its report; null while that does not count"
    )
    uncached_tokens: int = Field(description="Of its prompts, yet to be computed")
    cached_tokens: int | None = Field(
        description="Prefix match: prompt tokens that it has cached; null if nobody looked"
    )
    slow_start_factor: float = Field(description="What its load was multiplied by; 1: none")
    source: Source = Field(description="Where its load came from")
    figure_age_s: float | None = Field(
        description="Age of its newest report; null if it has not reported"
    )


class GroupLeftOut(BaseModel):
    """A group that was no candidate."""

    dp_rank: int
    why: str


class LeftOutTold(BaseModel):
    """Groups that were no candidates."""

    groups: list[GroupLeftOut] = Field(description="Eight at most")
    counts: dict[str, int] = Field(
        description="All of them by reason: starting, dead, draining, released, suspect, full, "
        "no_room, tried, same_engine, other_model, other_rank, breaker_open, not_asked_for"
    )


class DecisionTold(BaseModel):
    """Why one attempt of one request went to the group that it went to."""

    dp_balance_id: str
    request: str = Field(description="dp_balance_id of the request's first attempt")
    decided_at: datetime
    front_door: int
    dp_rank: int = Field(description="The group that was chosen")
    method: str
    stands_for: str = Field(description="The method that `auto` is today; else the same")
    why: Why = Field(description="The rule that decided")
    reason: str = Field(description="The same in a sentence, with figures")
    attempt: int
    follows: str | None = Field(description="dp_balance_id of the attempt before")
    left_because: str | None = Field(description="What became of that")
    waited_s: float = Field(description="In the front door, for room or for others")
    prompt_tokens: int
    cached_tokens: int = Field(description="Of these, what the group is believed to have cached")
    charge_tokens: int = Field(description="What is in flight until the group has accepted it")
    num_outputs: int
    has_session: bool
    cost_unit: str | None
    num_candidates: int
    num_shortlisted: int | None = Field(description="null: the method made no shortlist")
    candidates: list[CandidateTold] = Field(
        description="The cheapest first where costs were compared; eight at most, the chosen one "
        "and the longest prefix match among them"
    )
    left_out: LeftOutTold


class DecisionsTold(BaseModel):
    """Decisions of all front doors."""

    decisions: list[DecisionTold]
    silent_front_doors: list[int] = Field(
        description="Those that did not answer, so theirs are missing"
    )


def newest(answers: Iterable[Mapping[str, Any]], limit: int) -> list[DecisionTold]:
    """What front doors answered, in words, the newest first: of no more than are wanted."""
    found = [
        (Entry._make(wire), answer["front_door"], answer["method"])
        for answer in answers
        for wire in answer["entries"]
    ]
    found.sort(key=lambda each: each[0].wall_ns, reverse=True)
    return [_decision(_read(entry), slot, method) for entry, slot, method in found[:limit]]


def _read(wire: Entry) -> Entry:
    """With what is in it as what it was before it was sent."""
    occasion, decision = Occasion._make(wire.occasion), Decision.from_wire(wire.decision)
    return wire._replace(occasion=occasion, decision=decision)


def _decision(entry: Entry, slot: int, method: str) -> DecisionTold:
    decision, occasion = entry.decision, entry.occasion
    named, counts = decision.left_out
    return DecisionTold(
        dp_balance_id=entry.dp_balance_id,
        request=entry.request_id,
        decided_at=datetime.fromtimestamp(entry.wall_ns / _NS_PER_S, UTC),
        front_door=slot,
        dp_rank=decision.dp_rank,
        method=method,
        stands_for=STANDS_FOR.get(method, method),
        why=decision.why,
        reason=reason(decision),
        attempt=occasion.attempt,
        follows=occasion.follows,
        left_because=occasion.left_because,
        waited_s=occasion.waited_ns / _NS_PER_S,
        prompt_tokens=decision.prompt_tokens,
        cached_tokens=decision.chosen.cached_tokens or 0,
        charge_tokens=entry.charge_tokens,
        num_outputs=entry.num_outputs,
        has_session=decision.has_session,
        cost_unit=decision.why.unit,
        num_candidates=decision.num_candidates,
        num_shortlisted=decision.num_shortlisted,
        candidates=_candidates(entry),
        left_out=LeftOutTold(
            groups=[GroupLeftOut(dp_rank=rank, why=why) for rank, why in named],
            counts=dict(counts),
        ),
    )


def _candidates(entry: Entry) -> list[CandidateTold]:
    told = [_candidate(each, entry) for each in entry.decision.candidates]
    return sorted(told, key=lambda each: (each.cost or 0, not each.is_chosen, each.dp_rank))


def _candidate(each: Weighed, entry: Entry) -> CandidateTold:
    load, sampled_ns = each.load, each.sampled_ns
    return CandidateTold(
        dp_rank=load.dp_rank,
        is_chosen=load.dp_rank == entry.decision.dp_rank,
        is_shortlisted=each.is_shortlisted,
        cost=each.cost,
        holding_tokens=load.holding_tokens,
        in_flight_tokens=load.in_flight_tokens,
        held_requests=load.held_requests,
        in_flight_requests=load.in_flight_requests,
        waiting_requests=each.waiting_requests,
        uncached_tokens=load.uncached_tokens,
        cached_tokens=each.cached_tokens,
        slow_start_factor=each.factor,
        source=each.source,
        figure_age_s=None if sampled_ns is None else _age_s(entry.decided_ns, sampled_ns),
    )


def _age_s(decided_ns: int, sampled_ns: int) -> float:
    """A decision's time is taken before it reads, so a report may be a little younger than it."""
    return max(0, decided_ns - sampled_ns) / _NS_PER_S
