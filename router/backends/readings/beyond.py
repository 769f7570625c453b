"""
What a group holds beyond the books of the front doors, by its readings.

A reading has no instant and no `accepted`: it may be older than what was dispatched since,
and show what has ended.  So it takes nothing away from the books, which are as fresh as
the streams.  It adds what they cannot know: requests of others than our front doors, output
of answers that are not streamed, prompts that are longer than estimated.

    beyond = max(0, what the reading shows - largest book noted since a second before it was so)

How old its figures were when they were told, an engine may say (SGLang's are as old as 15 steps).
Books are kept for 30 s: what is older and shows that something is held says nothing of now.

The largest, because whatever book of that time the reading shows, what is on it is not
added a second time; nor is what is dispatched later, which is in no reading yet.  Too
little may be added, until the next reading.  Books are noted every fifth of a second and
around each question; one that the reading shows, and that fell between two of them, is
larger than both by no more than what began and what ended between them, whichever is less.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from balancer.ledger import Book
from router.backends.readings.doubt import Doubt
from router.backends.readings.reading import Condition, Reading, ReadingError

_SHORTLY_NS = 1_000_000_000
_KEPT_NS = 30 * _SHORTLY_NS


class _Seen(NamedTuple):
    at_ns: int
    book: Book


class Beyond:
    """Follows one group."""

    def __init__(self) -> None:
        self.condition: Condition | None = None
        """Why its readings are not used; None if they are, or if there are none yet."""
        self.reading: Reading | None = None
        """The last one that was understood."""
        self._doubt = Doubt()
        self._seen: deque[_Seen] = deque()

    def note(self, book: Book, now_ns: int) -> None:
        """The group's book as it is then: noted often, because a reading may show any of them."""
        self._seen.append(_Seen(now_ns, book))
        while self._seen[0].at_ns < now_ns - _KEPT_NS:
            self._seen.popleft()

    def observe(
        self, told: Reading | ReadingError, before: Book, after: Book, now_ns: int
    ) -> Book | None:
        """
        A reading that has come, or why there is none, with the books around its question.

        Returns what is held beyond the books; None if the readings are not to be used.
        """
        self.note(before, now_ns)
        self.note(after, now_ns)
        if isinstance(told, ReadingError):
            self.condition = told.condition
            return None
        self.reading = told
        self.condition = self._doubt.observe(told, before, after)
        if self.condition is not None:
            return None
        since_ns = now_ns - told.age_ns - _SHORTLY_NS
        if since_ns < now_ns - _KEPT_NS and not told.is_zero:
            self.condition = Condition.FROZEN
            return None
        shown = [seen.book for seen in self._seen if seen.at_ns >= since_ns]
        most_tokens = max(book.tokens for book in shown)
        most_requests = max(book.requests for book in shown)
        return Book(max(0, told.held_tokens - most_tokens), max(0, told.requests - most_requests))
