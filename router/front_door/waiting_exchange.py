"""
An inference exchange that waits in the lobby before it is dispatched, if it has to.

A retry does not wait for room: it goes to another group at once, as without a lobby.
"""

from __future__ import annotations

from router.front_door.kept_exchange import KeptExchange
from router.front_door.prompt import PromptCount


class WaitingExchange(KeptExchange):
    """A guest of the lobby between its count and its first attempt."""

    def _dispatch(self, counted: PromptCount) -> None:
        self._counted = counted
        self._wait()
