"""
The witness: takes down what each decision was made on, and changes none.

It is called after the policy has chosen.  With MAX_CANDIDATES groups or fewer it copies what
there is; with more it sorts their places by the costs that the policy compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from functools import partial
from heapq import nsmallest
from operator import itemgetter

from balancer.bystanders import Bystanders
from balancer.choice import Choice, Why
from balancer.decision import MAX_CANDIDATES, Decision, Source, Weighed
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.slots import Slots
from balancer.slow_start import SlowStart
from shm.group_table import GroupState

_DP_RANK = itemgetter(0)
# Looking a member of an enumeration up, and Weighed(...) in place of one tuple, cost as much as all
# the rest.
_ASKED_FOR, _ONLY_CANDIDATE = Why.ASKED_FOR, Why.ONLY_CANDIDATE
_REPORT, _BOOKS, _BOTH = Source.REPORT, Source.BOOKS, Source.BOTH
_SUSPECT = GroupState.SUSPECT
_WEIGHED = partial(tuple.__new__, Weighed)
_DECISION = partial(tuple.__new__, Decision)


class Witness:
    """Belongs to one controller; reads what that owns."""

    def __init__(
        self, ledger: Ledger, slots: Slots, is_fresh: Sequence[bool], slow_start: SlowStart
    ) -> None:
        """`is_fresh`: by dp_rank, whether its report counts."""
        self._ledger = ledger
        self._slots = slots
        self._is_fresh = is_fresh
        self._slow_start = slow_start
        self._bystanders = Bystanders(slots)

    def decision(
        self,
        choice: Choice,
        candidates: Sequence[GroupLoad],
        request: RequestShape,
        excluded: Collection[int],
    ) -> Decision:
        """Take it down.  candidates: without the factors of slow start."""
        dp_rank, why, costs, shortlist, num_equal = choice
        num_candidates = len(candidates)
        if request.dp_rank is not None:
            why = _ASKED_FOR
        elif num_candidates == 1:
            why = _ONLY_CANDIDATE
        places: Sequence[int] = range(num_candidates)
        if num_candidates > MAX_CANDIDATES:
            places = _kept(choice, candidates, request.cached_tokens)
        return _DECISION(
            (
                dp_rank,
                why,
                request.prompt_tokens,
                request.session_key is not None,
                self._weighed(places, candidates, request.cached_tokens, costs, shortlist),
                num_candidates,
                None if shortlist is None else len(shortlist),
                num_equal,
                self._slots.states[dp_rank] is _SUSPECT,
                False,
                self._bystanders.of(candidates, request.dp_rank, excluded),
            )
        )

    def _weighed(
        self,
        places: Sequence[int],
        candidates: Sequence[GroupLoad],
        cached: Sequence[int],
        costs: Sequence[float] | None,
        shortlist: Collection[int] | None,
    ) -> tuple[Weighed, ...]:
        """In one loop, for it runs with every request: a call for each would double its time."""
        reports, is_fresh, factors = self._ledger.reports, self._is_fresh, self._slow_start.slowed
        is_booked, found = self._slots.is_booked, []
        for place in places:
            load = candidates[place]
            dp_rank, sampled_ns, waiting, source = load[0], None, None, _BOOKS
            report = reports[dp_rank]
            if report is not None:
                sampled_ns = report.sampled_ns
                if is_fresh[dp_rank]:
                    source = _BOTH
                    if not is_booked(dp_rank):
                        source, waiting = _REPORT, report.waiting_requests
            found.append(
                _WEIGHED(
                    (
                        load,
                        factors.get(dp_rank, 1.0) if factors else 1.0,
                        None if costs is None else costs[place],
                        cached[dp_rank] if cached else None,
                        shortlist is None or place in shortlist,
                        source,
                        sampled_ns,
                        waiting,
                    )
                )
            )
        return tuple(found)


def _kept(choice: Choice, candidates: Sequence[GroupLoad], cached: Sequence[int]) -> Sequence[int]:
    """Places of those that are kept, the one taken first, and of equals the first."""
    taken = bisect_left(candidates, choice.dp_rank, key=_DP_RANK)
    kept = {taken: None}
    if cached and any(cached):
        matches = [cached[load.dp_rank] for load in candidates]
        kept[matches.index(max(matches))] = None
    costs, shortlist = choice.costs, choice.shortlist
    if costs is not None:
        if shortlist is not None:
            kept |= dict.fromkeys(nsmallest(MAX_CANDIDATES // 2, shortlist, costs.__getitem__))
        kept |= dict.fromkeys(_cheapest(costs))
    elif shortlist is not None:
        kept |= dict.fromkeys(shortlist)
    return [place for place, _ in zip(kept, range(MAX_CANDIDATES), strict=False)]


def _cheapest(costs: Sequence[float]) -> list[int]:
    """Places of the MAX_CANDIDATES least; of equals the first."""
    places = sorted(range(len(costs)), key=costs.__getitem__)
    return places[:MAX_CANDIDATES]
