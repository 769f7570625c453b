"""
The KV pages of a group that hold nothing.

A page is page_size consecutive slots; slot = page * page_size + offset.  Pages
that hold something belong to a request or to the prefix cache, and
`workers.engine.page_tables` knows which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class PagePool:
    """Hands out pages and takes them back.  Which ones is deterministic."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(reversed(range(num_pages)))

    def __repr__(self) -> str:
        return f"<PagePool {len(self._free)} of {self.num_pages} pages free>"

    @property
    def capacity_tokens(self) -> int:
        """Tokens that all pages hold."""
        return self.num_pages * self.page_size

    @property
    def num_free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that num_tokens need."""
        return -(-num_tokens // self.page_size)

    def take(self, num_pages: int) -> list[int]:
        """Hand out pages; there must be as many."""
        assert num_pages <= len(self._free), f"{num_pages} pages asked for, {self}"
        return [self._free.pop() for _ in range(num_pages)]

    def put(self, pages: Sequence[int]) -> None:
        """Take pages back; the first of them is handed out first again."""
        self._free.extend(reversed(pages))

    def check_integrity(self, used: Iterable[int]) -> None:
        """Raise AssertionError unless every page is free or used, and once."""
        pages = [*self._free, *used]
        assert sorted(pages) == list(range(self.num_pages)), (
            f"{len(pages)} pages accounted for, {len(set(pages))} of them different, "
            f"of {self.num_pages}"
        )
