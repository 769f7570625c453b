"""
A prefix cache: a tree whose edges are runs of pages.

    root ── [the cat][sat on ] ──┬── [the mat]            a leaf, evictable
       2 locks      2 locks      └── [a chair][. It] ──   locked by two requests
                                        2 locks

Each node holds the run that leads to it: tokens, pages, digests.  Children are
found by the tokens of their first page.  A run is split where a lock or an
insertion ends inside it; the node that was split keeps the lower half, so that
locks on it stay what they were.

A lock counts on every node up to the root.  So a node without locks has none
below it either, all its pages can be evicted, and num_evictable is exact.

Eviction takes pages from the end of the leaf that was used longest ago.
Leaves without locks are in a heap, each at most once.  An entry there is never
removed: one that turns out to be locked or no leaf is dropped, and one that was
used meanwhile goes back with its new place.  Time is a count of uses, so the
same calls evict the same pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from shm.page_digest import NO_DIGEST, page_digests
from workers.engine.cache_journal import CacheJournal, Change
from workers.engine.prefix_cache import Lock


class _Node:
    """The run of pages that leads here, and what comes after it."""

    __slots__ = (
        "children", "digests", "is_queued", "last_used", "num_locks", "pages", "parent", "tokens",
    )  # fmt: skip

    def __init__(
        self, parent: _Node | None, tokens: list[int], pages: list[int], digests: list[int]
    ) -> None:
        self.parent = parent
        self.tokens = tokens
        self.pages = pages
        self.digests = digests
        self.children: dict[tuple[int, ...], _Node] = {}
        self.num_locks = 0
        self.last_used = 0
        self.is_queued = False

    @property
    def is_evictable_leaf(self) -> bool:
        """Whether its last page can be given up."""
        return self.parent is not None and not self.children and not self.num_locks


class RadixCache:
    """Belongs to the step loop; journal: is told what is stored and evicted."""

    keeps = True

    def __init__(self, page_size: int, journal: CacheJournal | None = None) -> None:
        self._page_size = page_size
        self.journal = journal or CacheJournal()
        self._root = _Node(None, [], [], [])
        self._leaves: list[tuple[int, int, _Node]] = []  # last_used, order of queueing, node
        self._num_queued = 0
        self._clock = 0
        self._num_pages = 0
        self._num_evictable = 0
        self._version = 0

    def __repr__(self) -> str:
        return f"<RadixCache {self.num_pages} pages, {self.num_evictable} of them evictable>"

    @property
    def num_pages(self) -> int:
        """Pages that the cache owns."""
        return self._num_pages

    @property
    def num_evictable(self) -> int:
        """Pages on which nobody has a lock."""
        return self._num_evictable

    @property
    def num_locks(self) -> int:
        """Locks that were not given back."""
        return self._root.num_locks

    @property
    def version(self) -> int:
        """Changes whenever a match may give another answer than before."""
        return self._version

    def match(self, tokens: list[int]) -> list[int]:
        """Return the pages of the longest cached prefix.  Changes nothing, however often."""
        return [page for node, count in self._path(tokens) for page in node.pages[:count]]

    def lock(self, tokens: list[int]) -> Lock:
        """Lock the longest cached prefix, which may be empty."""
        end, pages = self._reach(tokens)
        for node in _upwards(end):
            if not node.num_locks:
                self._num_evictable -= len(node.pages)
            node.num_locks += 1
        return Lock(tuple(pages), end)

    def unlock(self, lock: Lock) -> None:
        """Give a lock back, once."""
        assert isinstance(lock.node, _Node)
        for node in _upwards(lock.node):
            assert node.num_locks, "unlocked more often than locked"
            node.num_locks -= 1
            if not node.num_locks:
                self._num_evictable += len(node.pages)
                self._queue(node)

    def insert(self, tokens: list[int], pages: Sequence[int]) -> list[int]:
        """Offer pages, one for each full page of tokens; return the cache's pages for them."""
        num_full = len(tokens) // self._page_size
        end, known = self._reach(tokens)
        if len(known) < num_full:
            start, stop = len(known) * self._page_size, num_full * self._page_size
            self._append(end, tokens[start:stop], list(pages[len(known) : num_full]))
        return [*known, *pages[len(known) : num_full]]

    def evict(self, num_pages: int) -> list[int]:
        """Give up at most num_pages, the longest unused first; they are the caller's."""
        evicted: list[int] = []
        while len(evicted) < num_pages and self._leaves:
            last_used, _, node = heappop(self._leaves)
            node.is_queued = False
            if not node.is_evictable_leaf:
                continue
            if last_used == node.last_used:
                evicted += self._cut(node, num_pages - len(evicted))
            else:
                self._queue(node)
        return evicted

    def pages(self) -> list[int]:
        """Return all pages that the cache owns."""
        return [page for node in self._nodes() for page in node.pages]

    def digests(self) -> list[int]:
        """Return the digests of all pages, for a reader whose journal is not complete."""
        return [digest for node in self._nodes() for digest in node.digests]

    def check_integrity(self) -> None:
        """Raise AssertionError unless tree, counts and heap agree."""
        nodes = list(self._nodes())
        pages = self.pages()
        assert len(pages) == len(set(pages)) == self._num_pages
        assert self._num_evictable == sum(len(n.pages) for n in nodes if not n.num_locks)
        queued = {id(entry[2]) for entry in self._leaves}
        assert len(queued) == len(self._leaves), "a leaf is queued twice"
        for node in nodes:
            self._check_node(node)
            assert node.is_queued == (id(node) in queued)
            assert node.is_queued or not node.is_evictable_leaf, "a leaf cannot be evicted"
        assert self._root.num_locks >= sum(n.num_locks for n in self._root.children.values())

    def _check_node(self, node: _Node) -> None:
        parent = node.parent
        assert parent is not None
        assert parent.children[self._key(node)] is node
        assert len(node.tokens) == len(node.pages) * self._page_size > 0
        assert node.digests == self._digests(parent, node.tokens)
        assert node.num_locks >= sum(child.num_locks for child in node.children.values())
        assert parent is self._root or parent.last_used >= node.last_used

    def _path(self, tokens: list[int]) -> Iterator[tuple[_Node, int]]:
        """Nodes that tokens lead through, and how many pages of each they share."""
        node, start, size = self._root, 0, self._page_size
        while (child := node.children.get(tuple(tokens[start : start + size]))) is not None:
            count = self._num_common_pages(child, tokens, start)
            yield child, count
            if count < len(child.pages):
                return
            node, start = child, start + count * size

    def _num_common_pages(self, node: _Node, tokens: list[int], start: int) -> int:
        """Leading pages of node that hold tokens[start:]; the first does."""
        run, size = node.tokens, self._page_size
        theirs = tokens[start : start + len(run)]
        if run == theirs:
            return len(node.pages)
        starts = range(size, len(run), size)
        return next(i // size for i in starts if run[i : i + size] != theirs[i : i + size])

    def _reach(self, tokens: list[int]) -> tuple[_Node, list[int]]:
        """Use the longest cached prefix: the node that ends with it, and its pages."""
        self._clock += 1
        end, pages = self._root, []
        for node, count in list(self._path(tokens)):
            end = node if count == len(node.pages) else self._split(node, count)
            end.last_used = self._clock
            pages += end.pages
        return end, pages

    def _split(self, node: _Node, num_pages: int) -> _Node:
        """Put a node before this one, with its first num_pages; return it."""
        parent, num_tokens = node.parent, num_pages * self._page_size
        assert parent is not None
        upper = _Node(
            parent, node.tokens[:num_tokens], node.pages[:num_pages], node.digests[:num_pages]
        )
        upper.num_locks, upper.last_used = node.num_locks, node.last_used
        parent.children[self._key(upper)] = upper
        del node.tokens[:num_tokens], node.pages[:num_pages], node.digests[:num_pages]
        node.parent = upper
        upper.children[self._key(node)] = node
        return upper

    def _append(self, parent: _Node, tokens: list[int], pages: list[int]) -> None:
        leaf = _Node(parent, tokens, pages, self._digests(parent, tokens))
        leaf.last_used = self._clock
        parent.children[self._key(leaf)] = leaf
        self._version += 1
        self._num_pages += len(pages)
        self._num_evictable += len(pages)
        self._queue(leaf)
        self.journal.note(Change.STORED, leaf.digests)

    def _cut(self, leaf: _Node, max_pages: int) -> list[int]:
        """Take pages from the end of a leaf, the last one first."""
        kept = max(0, len(leaf.pages) - max_pages)
        cut = leaf.pages[kept:][::-1]
        self.journal.note(Change.EVICTED, leaf.digests[kept:])
        parent = leaf.parent
        assert parent is not None
        if not kept:
            del parent.children[self._key(leaf)]
        del leaf.tokens[kept * self._page_size :], leaf.pages[kept:], leaf.digests[kept:]
        self._version += 1
        self._num_pages -= len(cut)
        self._num_evictable -= len(cut)
        self._queue(leaf if kept else parent)
        return cut

    def _queue(self, node: _Node) -> None:
        """Have a leaf considered for eviction, if it can be evicted and is not yet."""
        if node.is_evictable_leaf and not node.is_queued:
            node.is_queued = True
            self._num_queued += 1
            heappush(self._leaves, (node.last_used, self._num_queued, node))

    def _digests(self, parent: _Node, tokens: list[int]) -> list[int]:
        before = parent.digests[-1] if parent.digests else NO_DIGEST
        return page_digests(tokens, self._page_size, before)

    def _key(self, node: _Node) -> tuple[int, ...]:
        return tuple(node.tokens[: self._page_size])

    def _nodes(self) -> Iterator[_Node]:
        """All nodes but the root."""
        rest = list(self._root.children.values())
        while rest:
            node = rest.pop()
            yield node
            rest += node.children.values()


def _upwards(node: _Node) -> Iterator[_Node]:
    above: _Node | None = node
    while above is not None:
        yield above
        above = above.parent
