"""The radix cache without its tree: a record for each prefix, and everything by searching."""

from dataclasses import dataclass

from shm.page_digest import NO_DIGEST, page_digest
from workers.engine.prefix_cache import Lock


@dataclass
class CachedPage:
    page: int
    last_used: int
    num_locks: int = 0


class NaiveCache:
    """The oracle of RadixCache, with its interface."""

    keeps = True

    def __init__(self, page_size):
        self._page_size = page_size
        self._cached = {}  # by all tokens up to the end of the page
        self._clock = 0
        self.num_locks = 0
        self.version = 0

    @property
    def num_pages(self):
        return len(self._cached)

    @property
    def num_evictable(self):
        return sum(not entry.num_locks for entry in self._cached.values())

    def match(self, tokens):
        return [self._cached[prefix].page for prefix in self._known(tokens)]

    def lock(self, tokens):
        prefixes = self._use(tokens)
        for prefix in prefixes:
            self._cached[prefix].num_locks += 1
        self.num_locks += 1
        return Lock(tuple(self.match(tokens)), prefixes)

    def unlock(self, lock):
        self.num_locks -= 1
        for prefix in lock.node:
            self._cached[prefix].num_locks -= 1

    def insert(self, tokens, pages):
        self.version += 1
        self._use(tokens)
        for prefix, page in zip(self._prefixes(tokens), pages, strict=False):
            self._cached.setdefault(prefix, CachedPage(page, self._clock))
        return self.match(tokens)

    def evict(self, num_pages):
        evicted = []
        while len(evicted) < num_pages and self.num_evictable:
            inner = {prefix[: -self._page_size] for prefix in self._cached}
            leaves = [p for p, e in self._cached.items() if p not in inner and not e.num_locks]
            oldest = min(leaves, key=lambda prefix: self._cached[prefix].last_used)
            self.version += 1
            evicted.append(self._cached.pop(oldest).page)
        return evicted

    def pages(self):
        return [entry.page for entry in self._cached.values()]

    def digests(self):
        return [self._digest(prefix) for prefix in self._cached]

    def check_integrity(self):
        assert len(set(self.pages())) == self.num_pages

    def _digest(self, prefix):
        digest = NO_DIGEST
        for start in range(0, len(prefix), self._page_size):
            digest = page_digest(digest, prefix[start : start + self._page_size])
        return digest

    def _prefixes(self, tokens):
        ends = range(self._page_size, len(tokens) + 1, self._page_size)
        return [tuple(tokens[:end]) for end in ends]

    def _known(self, tokens):
        return [prefix for prefix in self._prefixes(tokens) if prefix in self._cached]

    def _use(self, tokens):
        self._clock += 1
        known = self._known(tokens)
        for prefix in known:
            self._cached[prefix].last_used = self._clock
        return known
