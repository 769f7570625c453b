"""
How many requests may be sent to a second group, so that an outage does not multiply load.

    balance += percent / 100 with each request,  += 3 with each second,  -= 1 with each retry

It begins full, and holds 1,024 at most.  So what one engine had waiting when it died goes
elsewhere, and if every request fails, for long, only that share of them is sent again.  Pure.
"""

from __future__ import annotations

CAPACITY = 1024.0
PER_SECOND = 3.0
_NS_PER_S = 1e9


class RetryBudget:
    """Of one front door."""

    def __init__(self, percent: float, now_ns: int = 0) -> None:
        self._per_request = percent / 100
        self._balance = CAPACITY
        self._then_ns = now_ns

    def __repr__(self) -> str:
        return f"<RetryBudget: {self._balance:.1f} retries>"

    def deposit(self) -> None:
        """A request was sent for the first time."""
        self._balance = min(CAPACITY, self._balance + self._per_request)

    def affords(self, now_ns: int) -> bool:
        """Whether one more request may be sent again."""
        passed_s = (now_ns - self._then_ns) / _NS_PER_S
        self._balance = min(CAPACITY, self._balance + PER_SECOND * passed_s)
        self._then_ns = now_ns
        return self._balance >= 1

    def withdraw(self) -> None:
        """One is sent again."""
        self._balance -= 1
