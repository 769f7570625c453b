"""
The load of a group: by the books (balancer.booked_load), or by its report and what is in flight.

From the report goes what is known to have ended since (balancer.departures).  And where
groups wait for each other at every step, what a step is computing: whoever is sent
anywhere begins after it, so it makes no difference between groups.  Alone, a group
that computes is busy for itself.
"""

from __future__ import annotations

from functools import partial

from balancer.booked_load import by_book
from balancer.departures import TakenOff
from balancer.in_flight import InFlight
from balancer.ledger import Ledger
from balancer.load import GroupLoad
from shm.load import LoadReport

# From one tuple: GroupLoad(...) does the same with a Python frame, for every group of a snapshot.
_GROUP_LOAD = partial(tuple.__new__, GroupLoad)


def by_report(
    report: LoadReport, flying: InFlight, gone: TakenOff, *, groups_wait: bool
) -> GroupLoad:
    """
    The load by the group's own figures.

    What has ended has grown since the sample, so more is taken off than the report has, and
    nothing goes below zero.  Whether its prompt was computed by then nobody knows: what is
    left uncached is at most what is left.
    """
    holding = max(0, report.holding_tokens - gone.tokens)
    held = max(0, report.running_requests + report.waiting_requests - gone.requests)
    uncached = report.waiting_uncached_tokens - (report.computing_tokens if groups_wait else 0)
    if gone.requests:
        uncached = min(uncached, holding)
    uncached += flying.tokens
    return _GROUP_LOAD((report.dp_rank, holding, flying.tokens, held, flying.requests, uncached))


def load_of(
    ledger: Ledger,
    dp_rank: int,
    report: LoadReport | None,
    factor: float | None,
    uncached: int,
    *,
    groups_wait: bool,
) -> GroupLoad:
    """
    The load by the books and what is beyond them if it has a factor, as backends have; else by
    its report.  `report`: its fresh one, or None.  `uncached`: prompt tokens of its book.
    """
    if report is None or factor is not None:
        return by_book(dp_rank, ledger.book(dp_rank), uncached, report, factor or 1.0)
    flying, gone = ledger.in_flight(dp_rank), ledger.taken_off(dp_rank)
    return by_report(report, flying, gone, groups_wait=groups_wait)
