"""What a group holds."""

from __future__ import annotations

from typing import NamedTuple


class Holdings(NamedTuple):
    """
    What a group holds at one instant.

    holding_tokens: all tokens of all requests.
    waiting_uncached_tokens: those to be computed before their request decodes.
    kv_used_tokens: of running requests, with keys and values; what several
    share counts for each, because each reads it at every step.
    """

    holding_tokens: int
    running_requests: int
    waiting_requests: int
    waiting_uncached_tokens: int
    kv_used_tokens: int
