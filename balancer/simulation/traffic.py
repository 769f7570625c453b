"""
Traffic: what is asked of the groups, and when.

Open traffic arrives when it arrives.  Closed traffic has `num_clients`: as many
requests arrive at their times, and each of the others as soon as one has ended.

Some traces were written by a coarse clock, and hundreds of requests share a time.
Replayed so, they would come as bursts that never were.  Where more than half
share theirs, those of one time are spread between it and the next, by chance.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

_COARSE = 0.5


class TracedRequest(NamedTuple):
    """One request: lengths, time and prefix, never text."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    page_digests: tuple[int, ...] = ()
    """Of the prompt's full pages, each standing for all before it too; empty: not known."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests in order of arrival; at least one."""

    name: str
    requests: Sequence[TracedRequest]
    page_size: int = 0
    """Tokens in a page of page_digests; 0 if there are none."""
    num_clients: int | None = None
    """Of closed traffic; None if it is open."""

    @property
    def span_s(self) -> float:
        """From the first arrival to the last, and as much again as lies between two on average."""
        first, last = self.requests[0].arrival_s, self.requests[-1].arrival_s
        return (last - first) * len(self.requests) / max(1, len(self.requests) - 1)

    def first(self, num_requests: int | None) -> Traffic:
        """The same, cut after that many requests, or all of it."""
        return replace(self, requests=self.requests[:num_requests])

    def arrivals_s(self, rate_scale: float, rng: random.Random) -> list[float]:
        """Times of arrival from 0 on, ascending; those of open traffic so many times as dense."""
        given = [request.arrival_s for request in self.requests]
        if self.num_clients is not None:
            return given
        times = sorted(set(given))
        if len(times) < _COARSE * len(given) and len(times) > 1:
            ends = [*times[1:], 2 * times[-1] - times[-2]]
            given = sorted(rng.uniform(at, ends[bisect_right(times, at) - 1]) for at in given)
        return [(at - given[0]) / rate_scale for at in given]
