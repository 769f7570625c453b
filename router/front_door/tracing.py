"""
Dispatches in traces: a span for each attempt of a request that somebody traces.

    client's span (traceparent) ──┬── levelhead.dispatch   why, in its attributes
                                  └── the engine's own spans

A span begins when the request was read whole, that of a later attempt when it is dispatched, and
ends with the dispatch.  Only a request that brings a W3C `traceparent` with its sampled flag set
has any: who traces decides how many, and the others cost a look at their headers.  `traceparent`
itself goes to the group as it came, so an engine's spans stand beside ours, whichever attempt it
was.

Spans are sent in batches, by a thread of the OpenTelemetry library (router.front_door.otlp).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from balancer.assignment import Assignment
from balancer.decision import Decision
from balancer.reasons import reason
from router.front_door.message import Request

SPAN_NAME = "levelhead.dispatch"
_HEADER = b"traceparent"
# W3C Trace Context, level 1: later versions may have more behind it.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1

Value = str | int | float | Sequence[int] | Sequence[float]


class Parent(NamedTuple):
    """The client's span."""

    trace_id: int
    span_id: int


class SpanSink(Protocol):
    """Takes finished spans; must not block."""

    def send(
        self, parent: Parent, began_ns: int, ended_ns: int, attributes: Mapping[str, Value]
    ) -> None:
        """Times since 1970."""

    def close(self) -> None:
        """Send what waits; may take some seconds, so call it beside the event loop."""


class Tracing:
    """Belongs to one front door."""

    def __init__(
        self,
        sink: SpanSink,
        slot: int,
        method: str,
        clock_s: Callable[[], float],
        wall_ns: Callable[[], int],
    ) -> None:
        """clock_s: that of requests; wall_ns: since 1970."""
        self._sink = sink
        self._fixed: dict[str, Value] = {"levelhead.front_door": slot, "levelhead.method": method}
        self._clock_s = clock_s
        self._wall_ns = wall_ns

    def dispatched(self, request: Request, assignment: Assignment, attempt: int) -> None:
        """A request goes to a group, for the first time or once more."""
        parent = sampled_parent(request.header(_HEADER))
        if parent is None:
            return
        age_s = self._clock_s() - request.began_s if attempt == 1 else 0.0
        now_ns = self._wall_ns()
        attributes = self._fixed | _of_assignment(assignment) | {"levelhead.attempt": attempt}
        if assignment.decision is not None:
            attributes |= _of_decision(assignment.decision)
        self._sink.send(parent, now_ns - round(age_s * 1e9), now_ns, attributes)


def sampled_parent(value: bytes) -> Parent | None:
    """The span that a `traceparent` names; None if there is none, or it is not to be recorded."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or (value.startswith(b"00") and found[4]):
        return None
    parent = Parent(int(found[1], 16), int(found[2], 16))
    return parent if all(parent) and int(found[3], 16) & _SAMPLED else None


def _of_assignment(assignment: Assignment) -> dict[str, Value]:
    return {
        "levelhead.dp_balance_id": assignment.dp_balance_id,
        "levelhead.dp_rank": assignment.dp_rank,
        "levelhead.charge_tokens": assignment.charge_tokens,
        "levelhead.cached_tokens": assignment.cached_tokens,
    }


def _of_decision(decision: Decision) -> dict[str, Value]:
    """Of candidates, lists in one order: an attribute has numbers or texts, and nothing else."""
    kept = decision.candidates
    found: dict[str, Value] = {
        "levelhead.why": decision.why.value,
        "levelhead.reason": reason(decision),
        "levelhead.prompt_tokens": decision.prompt_tokens,
        "levelhead.num_candidates": decision.num_candidates,
        "levelhead.candidates.dp_rank": [each.load.dp_rank for each in kept],
        "levelhead.candidates.holding_tokens": [each.load.holding_tokens for each in kept],
        "levelhead.candidates.in_flight_tokens": [each.load.in_flight_tokens for each in kept],
        "levelhead.candidates.cached_tokens": [each.cached_tokens or 0 for each in kept],
    }
    costs = [each.cost for each in kept if each.cost is not None]
    if len(costs) == len(kept):
        found["levelhead.candidates.cost"] = [float(cost) for cost in costs]
    return found
