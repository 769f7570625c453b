"""
Whether readings of a group can be believed, by what the front doors know at the same time.

    always_zero   ten readings in a row say that nothing is held, while before and after each
                  of them requests of ours were open
    frozen        ten readings in a row after another are the same to the last figure, while
                  our books went up and down by two requests or 2,048 tokens: by more than what
                  fits into an engine's coarsest page

Either is over with the first reading that is otherwise.  While nothing of ours is there,
nothing can be told, and what was found stands.
"""

from __future__ import annotations

from balancer.ledger import Book
from router.backends.readings.reading import Condition, Reading

_MAX_ZEROS = 10
_MAX_SAME = 10
_MOVED_REQUESTS = 2
_MOVED_TOKENS = 2048


class Doubt:
    """Watches the readings of one group."""

    def __init__(self) -> None:
        self.condition: Condition | None = None
        """What is wrong with the readings, as of the last one."""
        self._num_zeros = 0
        self._num_same = 0
        self._last: Reading | None = None
        self._least, self._most = Book(0, 0), Book(0, 0)
        """Of the books, component by component, since the reading has been the same."""

    def observe(self, reading: Reading, before: Book, after: Book) -> Condition | None:
        """A reading, and the group's book when it was asked for and when it came."""
        reading = reading._replace(age_ns=0)  # the same figures get older
        self._count_zeros(reading, before, after)
        self._count_same(reading, before, after)
        if self._num_zeros >= _MAX_ZEROS:
            self.condition = Condition.ALWAYS_ZERO
        elif self._num_same >= _MAX_SAME and self._have_moved():
            self.condition = Condition.FROZEN
        elif self._is_over():
            self.condition = None
        return self.condition

    def _is_over(self) -> bool:
        """Whether the reading is another one than what was found was about."""
        was_frozen = self.condition is Condition.FROZEN
        return not (self._num_same if was_frozen else self._num_zeros)

    def _count_zeros(self, reading: Reading, before: Book, after: Book) -> None:
        if not reading.is_zero:
            self._num_zeros = 0
        elif before.tokens and after.tokens:
            self._num_zeros += 1

    def _count_same(self, reading: Reading, before: Book, after: Book) -> None:
        if reading == self._last and not reading.is_zero:
            self._num_same += 1
        else:
            self._num_same, self._last = 0, reading
            self._least = self._most = before
        self._least = Book(*map(min, self._least, before, after))
        self._most = Book(*map(max, self._most, before, after))

    def _have_moved(self) -> bool:
        requests = self._most.requests - self._least.requests
        return requests >= _MOVED_REQUESTS or self._most.tokens - self._least.tokens > _MOVED_TOKENS
