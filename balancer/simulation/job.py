"""A request on its way through the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from balancer.assignment import Assignment
from balancer.simulation.traffic import TracedRequest


class Outcome(Enum):
    """How a request ended."""

    COMPLETED = "completed"
    REFUSED = "refused"
    """It can never fit into a group."""
    LOST = "lost"
    """Its group died after the first token had gone to the client."""


@dataclass(slots=True, eq=False)
class Job:
    """Times in seconds of the simulation."""

    request: TracedRequest
    arrival_s: float = 0.0
    first_s: float | None = None
    """When its first token came."""
    ended_s: float | None = None
    outcome: Outcome | None = None
    assignment: Assignment | None = None
    excluded: tuple[int, ...] = ()
    """Groups that it was sent to and that lost it."""
    num_streamed: int = 0
    """Output tokens that the front door's book has."""
    cached_tokens: int = 0
    """Of its prompt, found in its group's cache when it was first admitted there."""
    num_produced: int = 0
    """Output tokens as of when it last began or ceased to decode."""
    entry_step: int = 0
    end_step: int = 0
    """Decoding steps of its group after which it began, and will have ceased, to decode."""
    uncached_tokens: int = 0
    """To be computed before it decodes."""

    @property
    def dp_balance_id(self) -> str:
        """Of its assignment."""
        assert self.assignment is not None
        return self.assignment.dp_balance_id

    @property
    def num_tokens(self) -> int:
        """Prompt and output as of when it last began or ceased to decode."""
        return self.request.prompt_tokens + self.num_produced

    @property
    def most_tokens(self) -> int:
        """Prompt and output at its end."""
        return self.request.prompt_tokens + self.request.output_tokens
