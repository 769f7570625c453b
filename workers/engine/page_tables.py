"""
Which pages the running requests compute with, and who owns them.

The table of a request lists its pages in the order of its positions: position p
lies in slot table[p // page_size] * page_size + p % page_size.

    pages of a table   [ 7 ][ 3 ][ 12 ][ 5 ][ 9 ]
                       |-------------||--------|
                        the cache's,    its own
                        locked

The first are the prefix cache's and only read; the rest are the request's own,
and it writes into them.  Storing offers the full pages of what is computed to
the cache.  Where the cache has the same tokens already, the table is rewritten
to the cache's pages and its own ones are free again: two equal prompts that were
computed side by side end with one set of pages.

Every page is free, cached, or some request's own.  Cached pages on which there
is no lock count as available: they are evicted when a request grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.engine.pages import PagePool
from workers.engine.prefix_cache import Lock, PrefixCache
from workers.engine.request import Request


@dataclass(slots=True)
class _Table:
    """lock: on the leading pages, which are the cache's."""

    request: Request
    pages: list[int]
    lock: Lock

    @property
    def own_pages(self) -> list[int]:
        """The pages that the request alone uses."""
        return self.pages[len(self.lock.pages) :]


class PageTables:
    """One for each running request.  Owns what lies between pool and cache."""

    def __init__(self, pool: PagePool, cache: PrefixCache) -> None:
        self._pool = pool
        self._cache = cache
        self._tables: dict[int, _Table] = {}

    @property
    def num_available(self) -> int:
        """Pages that can be had: free ones, and cached ones that nobody uses."""
        return self._pool.num_free + self._cache.num_evictable

    @property
    def cache_version(self) -> int:
        """Changes whenever num_cached_tokens may give another answer than before."""
        return self._cache.version

    def pages(self, request: Request) -> Sequence[int]:
        """The request's pages; none if it has no table."""
        table = self._tables.get(request.request_id)
        return () if table is None else table.pages

    def missing(self, request: Request, num_tokens: int) -> int:
        """Pages that the request lacks to hold num_tokens."""
        return max(0, self._pool.pages_for(num_tokens) - len(self.pages(request)))

    def num_cached_tokens(self, request: Request) -> int:
        """Tokens that the request would find in the cache if it were opened now."""
        return len(self._cache.match(self._reusable(request))) * self._pool.page_size

    def open(self, request: Request) -> int:
        """Begin a table with the longest cached prefix; return how many tokens that is."""
        assert request.request_id not in self._tables
        lock = self._cache.lock(self._reusable(request))
        self._tables[request.request_id] = _Table(request, list(lock.pages), lock)
        return len(lock.pages) * self._pool.page_size

    def grow(self, request: Request, num_tokens: int) -> bool:
        """Make room for num_tokens, evicting; False, and nothing changes, if there is none."""
        missing = self.missing(request, num_tokens)
        if missing > self.num_available:
            return False
        self._pool.put(self._cache.evict(missing - self._pool.num_free))
        self._tables[request.request_id].pages += self._pool.take(missing)
        return True

    def grow_freely(self, request: Request, num_tokens: int) -> bool:
        """As grow, if no page has to be evicted for it."""
        is_free = self.missing(request, num_tokens) <= self._pool.num_free
        return is_free and self.grow(request, num_tokens)

    def store(self, request: Request) -> None:
        """Offer the full pages of what is computed to the cache, and use the cache's."""
        table = self._tables[request.request_id]
        num_full = request.num_computed // self._pool.page_size
        if num_full <= len(table.lock.pages):
            return
        tokens = request.tokens(0, num_full * self._pool.page_size)
        kept = self._cache.insert(tokens, table.pages[:num_full])
        if not kept:
            return
        before, table.lock = table.lock, self._cache.lock(tokens)
        self._cache.unlock(before)
        offered = table.pages[:num_full]
        self._pool.put([own for own, page in zip(offered, kept, strict=True) if own != page])
        table.pages = [*kept, *table.pages[num_full:]]

    def close(self, request: Request) -> None:
        """Leave what is computed in the cache and give everything back."""
        self.store(request)
        table = self._tables.pop(request.request_id)
        self._cache.unlock(table.lock)
        self._pool.put(table.own_pages)

    def forget_prefixes(self) -> None:
        """Evict all that nobody uses."""
        self._pool.put(self._cache.evict(self._cache.num_pages))

    def check_integrity(self) -> None:
        """Raise AssertionError unless pages, tables and locks agree."""
        self._cache.check_integrity()
        tables = self._tables.values()
        own = [page for table in tables for page in table.own_pages]
        self._pool.check_integrity([*self._cache.pages(), *own])
        assert self._cache.num_locks == len(tables)
        for table in tables:
            shared = list(table.lock.pages)
            num_tokens = len(shared) * self._pool.page_size
            assert table.pages[: len(shared)] == shared
            assert self._cache.match(table.request.tokens(0, num_tokens)) == shared
            assert num_tokens <= table.request.num_computed <= self._room(table)

    def _room(self, table: _Table) -> int:
        return len(table.pages) * self._pool.page_size

    def _reusable(self, request: Request) -> list[int]:
        """Tokens that the request may take from the cache."""
        return request.tokens(0, request.max_cached_tokens)
