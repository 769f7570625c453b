"""
An inference exchange that may have to wait in the lobby before it is dispatched.

A retry does not wait: it goes to another group at once, as without a lobby.
"""

from __future__ import annotations

from typing import Any

from balancer.assignment import Assignment
from balancer.waiting_room import Waiter
from router.errors import RequestError
from router.front_door.attempt import Attempt
from router.front_door.exchange import Client
from router.front_door.inference_exchange import InferenceExchange
from router.front_door.lobby import Guest, Lobby
from router.front_door.message import Request
from router.front_door.prompt import PromptCount
from router.front_door.services import Services


class WaitingExchange(InferenceExchange):
    """A guest of the lobby between its count and its first attempt."""

    def __init__(self, client: Client, request: Request, services: Services, lobby: Lobby) -> None:
        super().__init__(client, request, services)
        self._lobby = lobby
        self._priority = 0
        self._counted: PromptCount | None = None
        self._waiter: Waiter[Guest] | None = None

    def assigned(self, assignment: Assignment) -> None:
        """Send it; or, if the client has left since, take the charge back."""
        if self._over:
            Attempt(self._services, assignment).close()
            return
        assert self._counted is not None
        self._go(assignment, self._counted)

    def turned_away(self, error: RequestError) -> None:
        """The client is told."""
        if not self._over:
            self._fail(error)

    def _count(self, counted: PromptCount, body: dict[str, Any]) -> None:
        priority = body.get("priority")
        if type(priority) is int:  # anything else the group refuses
            self._priority = priority
        super()._count(counted, body)

    def _dispatch(self, counted: PromptCount) -> None:
        self._counted = counted
        now_ns = self._lobby.now_ns()
        self._waiter = Waiter(self, self._shape, now_ns, self._key(), self._priority)
        self._lobby.enter(self._waiter)

    def _end(self, error: RequestError | None) -> None:
        super()._end(error)
        if self._waiter is not None:
            self._lobby.leave(self._waiter)
            self._lobby.wake()

    def _key(self) -> int:
        """Of whoever asks: the API key it sends if clients have their own, else its address."""
        name = self._request.header(b"authorization") if self._lobby.keys_differ else b""
        return hash(name or self._client.peer_host)
