"""
The load of a group that is weighed with the books of the front doors.

A fresh report of such a group is a backend's: it tells what is held beyond the books.
"""

from __future__ import annotations

from balancer.ledger import Book
from balancer.load import GroupLoad
from shm.load import LoadReport


def by_book(
    dp_rank: int, book: Book, uncached: int, beyond: LoadReport | None, factor: float
) -> GroupLoad:
    """
    What is open there, and what of other people's it reports; None: it reports nothing.

    `uncached`: prompt tokens among it.  `factor`: what each token and request counts there.
    """
    tokens, requests = book
    if beyond is not None:
        tokens += beyond.holding_tokens
        requests += beyond.running_requests
    if factor != 1.0:
        tokens, requests = round(tokens * factor), round(requests * factor)
        uncached = round(uncached * factor)
    return GroupLoad(dp_rank, tokens, 0, requests, 0, uncached)
