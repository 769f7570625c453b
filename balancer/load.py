"""What a policy sees: the load of one group, and the shape of one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RequestShape(NamedTuple):
    """What is known of a request before it is dispatched."""

    prompt_tokens: int
    page_digests: Sequence[int] = ()
    """Of its full pages (see shm.page_digest); empty: not known."""
    page_size: int = 0
    """Tokens in each of those pages."""
    cached_tokens: Sequence[int] = ()
    """Prompt tokens that each group need not compute, by dp_rank; empty: not known."""
    session_key: int | None = None
    """64 bits that the requests of a session or conversation have in common, if they are known."""
    num_outputs: int = 1
    """Of all its prompts and choices."""
    dp_rank: int | None = None
    """The only group that may take it, if one was asked for."""

    def uncached_tokens(self, dp_rank: int) -> int:
        """Prompt tokens that the group has to compute; all of them if nothing is known."""
        return self.prompt_tokens - (self.cached_tokens[dp_rank] if self.cached_tokens else 0)

    def matched(self, pages: Sequence[int]) -> RequestShape:
        """The shape, with how many leading pages each group has; the last token is computed."""
        most = (self.prompt_tokens - 1) // self.page_size
        size = self.page_size
        return self._replace(cached_tokens=[min(count, most) * size for count in pages])


class GroupLoad(NamedTuple):
    """A group that may take the request, with its load as of now."""

    dp_rank: int
    holding_tokens: int
    """As reported, but for what has ended since; books where figures are missing or stale."""
    in_flight_tokens: int
    """Sent by any front door and not yet in holding_tokens."""
    held_requests: int
    """Running and waiting, likewise."""
    in_flight_requests: int
    uncached_tokens: int = 0
    """
    Of all tokens, those of prompts that are not computed yet: waiting and in flight.

    Without those that a step is computing, where groups wait for each other at every step.
    """

    @property
    def tokens(self) -> int:
        """Holding and in-flight tokens."""
        return self.holding_tokens + self.in_flight_tokens

    @property
    def requests(self) -> int:
        """Running, waiting and in-flight requests."""
        return self.held_requests + self.in_flight_requests
