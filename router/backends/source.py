"""
A source of backends: whoever knows which ones there are, and hears when that changes.

A source tells of all that it knows, every time; who listens finds out what is new and what is
gone.  While it knows nothing for certain (a file that cannot be read, a resolver that does
not answer) it tells nothing, and what it told last stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from router.backends.backend import Backend


class BackendSource(Protocol):
    """One flag's worth of backends."""

    @property
    def name(self) -> str:
        """As logs and `/admin/groups` name it: the flag that asked for it, and its value."""

    async def keep(self, tell: Callable[[Sequence[Backend]], None]) -> None:
        """Tell of its backends as soon as they are known, and at each change, for ever."""
