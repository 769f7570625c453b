"""
What the engine asks of a prefix cache, and the one that keeps nothing.

A prefix cache owns KV pages and finds them by the tokens that they hold.  It
knows whole pages only: whatever tokens it is given, it leaves out those after
the last full page.  Pages are never copied; who holds a lock on a prefix may
read its pages until the lock is given back.

`workers.engine.radix_cache` has the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Lock(NamedTuple):
    """A prefix that stays until it is unlocked.  node is the cache's own business."""

    pages: tuple[int, ...]
    node: object


class PrefixCache(Protocol):
    """Belongs to the step loop.  Only lock, insert and evict count as use."""

    @property
    def num_pages(self) -> int:
        """Pages that the cache owns."""

    @property
    def num_evictable(self) -> int:
        """Of those, the ones on which nobody has a lock."""

    @property
    def num_locks(self) -> int:
        """Locks that were not given back."""

    @property
    def version(self) -> int:
        """Changes whenever a match may give another answer than before."""

    @property
    def keeps(self) -> bool:
        """Whether what is inserted can be found later."""

    def match(self, tokens: list[int]) -> list[int]:
        """Return the pages of the longest cached prefix.  Changes nothing, however often."""

    def lock(self, tokens: list[int]) -> Lock:
        """Lock the longest cached prefix, which may be empty."""

    def unlock(self, lock: Lock) -> None:
        """Give a lock back, once."""

    def insert(self, tokens: list[int], pages: Sequence[int]) -> list[int]:
        """
        Offer pages, one for each full page of tokens; return the cache's pages for them.

        The cache now owns what it returns.  Where it returns another page than
        the one offered, it had those tokens already, and the offered page
        remains the caller's; so do the pages beyond what it returns.
        """

    def evict(self, num_pages: int) -> list[int]:
        """Give up at most num_pages, the longest unused first; they are the caller's."""

    def pages(self) -> list[int]:
        """Return all pages that the cache owns."""

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books agree."""


class NoCache:
    """A prefix cache that keeps nothing."""

    num_pages = 0
    num_evictable = 0
    version = 0
    keeps = False

    def __init__(self) -> None:
        self.num_locks = 0

    def match(self, tokens: list[int]) -> list[int]:
        """Return nothing."""
        return []

    def lock(self, tokens: list[int]) -> Lock:
        """Lock nothing."""
        self.num_locks += 1
        return Lock((), None)

    def unlock(self, lock: Lock) -> None:
        """Take the lock back."""
        self.num_locks -= 1

    def insert(self, tokens: list[int], pages: Sequence[int]) -> list[int]:
        """Leave all pages to the caller."""
        return []

    def evict(self, num_pages: int) -> list[int]:
        """Return nothing: there is nothing to give up."""
        return []

    def pages(self) -> list[int]:
        """Return nothing."""
        return []

    def check_integrity(self) -> None:
        """Raise AssertionError if a lock was given back twice."""
        assert self.num_locks >= 0
