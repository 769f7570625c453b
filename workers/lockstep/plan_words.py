"""
What the leader of a DP group sends its followers before a pass: where the chunks lie, and tokens.

    word 0     number of chunks
    each       request id, start, num_new, pages that are kept, pages that are new, those new ones
    last       token ids of all chunks, in order

Pages of a request of the last plan are sent once: of a table that grew only what is new, of one
that was taken away and replaced all.  Writer and reader both keep the tables of the last plan
and no other, so one is the other's mirror as long as each plan that is written is read.

Positions whose logits are wanted are not sent: followers make none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.engine.batch import Place

Pages = tuple[int, ...]


class SentPlan(NamedTuple):
    """As followers have it; places without output positions."""

    places: tuple[Place, ...]
    token_ids: tuple[int, ...]


NO_PLAN = SentPlan((), ())


class PlanWriter:
    """The leader's end."""

    def __init__(self) -> None:
        self._tables: dict[int, Pages] = {}

    def write(self, places: Sequence[Place], token_ids: Sequence[int]) -> list[int]:
        """Return the words of a plan; none if it has no chunks."""
        tables, self._tables = self._tables, {place.request_id: place.pages for place in places}
        if not places:
            return []
        words = [len(places)]
        for place in places:
            known = tables.get(place.request_id, ())
            num_kept = len(known) if known == place.pages[: len(known)] else 0
            new = place.pages[num_kept:]
            words += [place.request_id, place.start, place.num_new, num_kept, len(new), *new]
        return [*words, *token_ids]


class PlanReader:
    """A follower's end."""

    def __init__(self) -> None:
        self._tables: dict[int, Pages] = {}

    def read(self, words: Sequence[int]) -> SentPlan:
        """Return the plan that these words are of."""
        places: list[Place] = []
        at = 1
        for _ in range(words[0] if words else 0):
            request_id, start, num_new, num_kept, num_sent = words[at : at + 5]
            at += 5
            kept = self._tables[request_id][:num_kept] if num_kept else ()
            pages = (*kept, *words[at : at + num_sent])
            at += num_sent
            places.append(Place(request_id, start, num_new, pages, ()))
        self._tables = {place.request_id: place.pages for place in places}
        return SentPlan(tuple(places), tuple(words[at:]))
