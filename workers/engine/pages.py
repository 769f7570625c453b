"""
The KV pages of a group and who owns them.

A page is page_size consecutive slots; slot = page * page_size + offset.  The
table of a request lists its pages in the order of its positions, so position p
lies in slot table[p // page_size] * page_size + p % page_size.
"""

from __future__ import annotations

from collections.abc import Sequence


class PagePool:
    """Hands out pages and takes them back.  Which ones is deterministic."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(reversed(range(num_pages)))
        self._tables: dict[int, list[int]] = {}

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

    def missing(self, request_id: int, num_tokens: int) -> int:
        """Pages that the request lacks to hold num_tokens."""
        owned = len(self._tables.get(request_id, ()))
        return max(0, self.pages_for(num_tokens) - owned)

    def grow(self, request_id: int, num_tokens: int) -> bool:
        """Give the request room for num_tokens; False, and nothing changes, if there is none."""
        missing = self.missing(request_id, num_tokens)
        if missing > len(self._free):
            return False
        table = self._tables.setdefault(request_id, [])
        table.extend(self._free.pop() for _ in range(missing))
        return True

    def table(self, request_id: int) -> Sequence[int]:
        """The request's pages; none if it owns none."""
        return self._tables.get(request_id, ())

    def release(self, request_id: int) -> None:
        """Take back all pages of the request; one without pages is fine."""
        self._free.extend(reversed(self._tables.pop(request_id, [])))

    def check_integrity(self) -> None:
        """Raise AssertionError unless every page is free or owned, and once."""
        pages = [*self._free, *(page for table in self._tables.values() for page in table)]
        assert sorted(pages) == list(range(self.num_pages)), (
            f"{len(pages)} pages accounted for, {len(set(pages))} of them different, "
            f"of {self.num_pages}"
        )
