"""What the control plane's routes ask of whoever keeps the group table."""

from __future__ import annotations

from typing import Protocol

from shm.group_table import GroupEntry


class Members(Protocol):
    """Knows the groups: workers of ours (membership), or backends (backend_membership)."""

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """The table as it is now."""

    def drain(self, dp_rank: int) -> GroupEntry:
        """Give that group no request any more; return its row as it is then."""

    async def keep(self) -> None:
        """Keep the table true, for ever."""

    def close(self) -> None:
        """Watch nobody any more."""
