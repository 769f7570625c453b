"""What a policy sees: the load of one group, and the shape of one request."""

from __future__ import annotations

from typing import NamedTuple


class RequestShape(NamedTuple):
    """What is known of a request before it is dispatched."""

    prompt_tokens: int


class GroupLoad(NamedTuple):
    """A group that may take the request, with its load as of now."""

    dp_rank: int
    holding_tokens: int
    """As reported; the books of the front doors where figures are missing or stale."""
    in_flight_tokens: int
    """Sent by any front door and not yet in holding_tokens."""
    held_requests: int
    """Running and waiting, from the same report."""
    in_flight_requests: int

    @property
    def tokens(self) -> int:
        """Holding and in-flight tokens."""
        return self.holding_tokens + self.in_flight_tokens

    @property
    def requests(self) -> int:
        """Running, waiting and in-flight requests."""
        return self.held_requests + self.in_flight_requests
