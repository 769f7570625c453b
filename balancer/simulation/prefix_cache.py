"""
A group's prefix cache: pages by digest, the longest unused forgotten first.

Its room is apart from that of running requests.  Of a prefix the end goes before
the beginning: using it touches the last page first.  Only prompts are kept: a
trace does not tell what an output's pages would be called.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Owned by one group; pages are named as in shm.page_digest."""

    def __init__(self, max_pages: int) -> None:
        self._max_pages = max_pages
        self._pages: OrderedDict[int, None] = OrderedDict()  # the last used last

    def __len__(self) -> int:
        return len(self._pages)

    def match(self, digests: Sequence[int]) -> int:
        """Leading pages that are there.  Looking is not using."""
        pages = self._pages
        return next((n for n, digest in enumerate(digests) if digest not in pages), len(digests))

    def insert(self, digests: Sequence[int]) -> tuple[list[int], list[int]]:
        """Use these pages; return those that were new, and those that had to go for them."""
        pages, digests = self._pages, digests[: self._max_pages]
        stored = [digest for digest in digests if digest not in pages]
        for digest in reversed(digests):
            pages[digest] = None
            pages.move_to_end(digest)
        evicted = [pages.popitem(last=False)[0] for _ in range(len(pages) - self._max_pages)]
        return stored, evicted
