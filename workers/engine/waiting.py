"""
The requests that wait in a group, and in which order they are tried.

    priority, higher first
      └─ urgent: retracted (the latest first), then overtaken too often (by arrival)
      └─ the rest: the longest cached prefix first (lpm), or by arrival (fcfs)

Taking the longest prefix first uses what is cached while it is there.  With
more than MAX_MATCHED waiting, matching them all costs more than it brings, and
lpm goes by arrival as well, as SGLang does.  With fewer, those whose match may
have changed are matched again, the longest not looked at first, until
MAX_MATCHED_TOKENS were gone through; the others have to wait for a later step.

Nobody of the same priority starves: each admission of a later arrival, of no
higher priority, counts against those that it overtakes, and max_overtaken of
them make a request urgent.  Overtakings that happen in one step are noticed
after it.  A request of higher priority always goes first, for as long as there
are any; but nobody who runs makes way for it, unless pages run out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from workers.engine.page_tables import PageTables
from workers.engine.request import Request

MAX_MATCHED = 128
MAX_MATCHED_TOKENS = 65_536
MAX_OVERTAKEN = 64


class SchedulePolicy(Enum):
    """SGLang's names."""

    LPM = "lpm"
    FCFS = "fcfs"


class Order(NamedTuple):
    """How waiting requests are ordered."""

    policy: SchedulePolicy = SchedulePolicy.LPM
    max_overtaken: int = MAX_OVERTAKEN


@dataclass(slots=True)
class _Place:
    """
    A request's place.

    number: counts arrivals up from 1, and retractions down from -1.
    num_cached: tokens found in the cache when it was last looked at.
    cache_version: of the cache at that time.
    """

    request: Request
    number: int
    num_cached: int
    cache_version: int
    num_overtaken: int = 0


class WaitingQueue:
    """Owns the places.  tables: know what is cached."""

    def __init__(self, order: Order, tables: PageTables) -> None:
        self._order = order
        self._tables = tables
        self._places: dict[int, _Place] = {}
        self._num_arrived = 0
        self._num_put_back = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Request]:
        return (place.request for place in self._places.values())

    @property
    def num_uncached_tokens(self) -> int:
        """
        Tokens that the waiting requests have to compute, as far as is known.

        By what was cached when each was last looked at: on arrival, and under
        lpm whenever somebody could be admitted.  What two of them have in
        common and nobody has computed yet counts for both.
        """
        places = self._places.values()
        return sum(place.request.num_tokens - place.num_cached for place in places)

    def add(self, request: Request) -> None:
        """Let an arrival wait."""
        self._num_arrived += 1
        self._put(request, self._num_arrived)

    def put_back(self, request: Request) -> None:
        """Let one that was retracted wait."""
        self._num_put_back += 1
        self._put(request, -self._num_put_back)

    def remove(self, request: Request) -> None:
        """Take one out that leaves."""
        del self._places[request.request_id]

    def admit(self, request: Request) -> None:
        """Take one out that runs; those that it overtook notice."""
        admitted = self._places.pop(request.request_id)
        for place in self._places.values():
            if place.number < admitted.number and place.request.priority >= request.priority:
                place.num_overtaken += 1

    def is_urgent(self, request: Request) -> bool:
        """Whether nobody of its priority or less may overtake it any more."""
        return self._is_urgent(self._places[request.request_id])

    def num_overtaken(self, request: Request) -> int:
        """How often later arrivals were admitted before it."""
        return self._places[request.request_id].num_overtaken

    def in_order(self) -> list[Request]:
        """The waiting requests, first the one to be tried first."""
        by_prefix = self._order.policy is SchedulePolicy.LPM and len(self) <= MAX_MATCHED
        if by_prefix:
            self._match_again()

        def rank(place: _Place) -> tuple[int, bool, int, int]:
            is_urgent = self._is_urgent(place)
            prefix = place.num_cached if by_prefix and not is_urgent else 0
            return (-place.request.priority, not is_urgent, -prefix, place.number)

        return [place.request for place in sorted(self._places.values(), key=rank)]

    def _match_again(self) -> None:
        version, num_tokens = self._tables.cache_version, 0
        stale = [p for p in self._places.values() if p.cache_version != version]
        for place in sorted(stale, key=lambda place: place.cache_version):
            if num_tokens >= MAX_MATCHED_TOKENS:
                break
            num_tokens += place.request.num_tokens
            place.num_cached = self._tables.num_cached_tokens(place.request)
            place.cache_version = version

    def _is_urgent(self, place: _Place) -> bool:
        return place.number < 0 or place.num_overtaken >= self._order.max_overtaken

    def _put(self, request: Request, number: int) -> None:
        num_cached = self._tables.num_cached_tokens(request)
        place = _Place(request, number, num_cached, self._tables.cache_version)
        self._places[request.request_id] = place
