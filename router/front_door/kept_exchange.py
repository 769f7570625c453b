"""
An inference exchange that is kept while the groups that could answer it start again.

    came while nobody served ─────────────────────────────┐
    dispatched ── its group was lost, nobody else can ────┴─► lobby ─► next attempt

A request that was dispatched is kept once: one that ends every group it comes to may not end
them for ever.  One that was lost with a group which turns out to live is told so.  After a byte
of an answer nothing is kept, as nothing is retried.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from balancer.assignment import Assignment
from balancer.waiting_room import Waiter
from router.errors import NoGroup, RequestError
from router.front_door.attempt import Attempt
from router.front_door.exchange import Client
from router.front_door.inference_exchange import InferenceExchange
from router.front_door.lobby import TOLD_WITHIN_NS, Guest, Lobby
from router.front_door.message import Request
from router.front_door.prompt import PromptCount
from router.front_door.services import Services

_log = logging.getLogger("levelhead.front_door")


class KeptExchange(InferenceExchange):
    """A guest of the lobby whenever it is at no group and not over."""

    def __init__(self, client: Client, request: Request, services: Services, lobby: Lobby) -> None:
        super().__init__(client, request, services)
        self._lobby = lobby
        self._priority = 0
        self._counted: PromptCount | None = None
        self._waiter: Waiter[Guest] | None = None
        self._lost_by: tuple[str, str] | None = None
        """Why it left its group, as a counter has it and in words; None: it was at none."""
        self.not_before_ns = 0

    @property
    def unfit(self) -> Collection[int]:
        """Groups whose present life it was sent to."""
        return self._elsewhere.tried()

    def assigned(self, assignment: Assignment) -> None:
        """Send it; or, if the client has left since, take the charge back."""
        if self._over:
            Attempt(self._services, assignment).close()
            return
        assert self._counted is not None
        if self._lost_by is None:
            self._go(assignment, self._counted)
            return
        reason, _ = self._lost_by
        self._services.meters.retries[reason] += 1
        self._try(assignment)

    def turned_away(self, error: RequestError) -> None:
        """The client is told: that it was lost, if it was, else why it waits no more."""
        if self._over:
            return
        if self._lost_by is None:
            self._fail(error)
        else:
            _, why = self._lost_by
            self._fail(self._lost_error(f"{why}, and {error}"))

    def _count(self, counted: PromptCount, body: dict[str, Any]) -> None:
        priority = body.get("priority")
        if type(priority) is int:  # anything else the group refuses
            self._priority = priority
        super()._count(counted, body)

    def _dispatch(self, counted: PromptCount) -> None:
        """At once if somebody serves."""
        self._counted = counted
        try:
            assignment = self._services.dispatcher.assign(self._shape)
        except NoGroup as error:
            if self._lobby.is_worth_waiting(self._shape):
                self._wait()
            else:
                self._fail(error)
            return
        self._go(assignment, counted)

    def _wait(self) -> None:
        now_ns = self._lobby.now_ns()
        self._waiter = Waiter(self, self._shape, now_ns, self._key(), self._priority)
        self._lobby.enter(self._waiter)

    def _retry(self, reason: str, why: str) -> bool:
        """Leave this group for another; wait for one if there is none and one will be."""
        return super()._retry(reason, why) or self._keep(reason, why)

    def _keep(self, reason: str, why: str) -> bool:
        left = self._attempt
        if self._head_passed or left is None or self._lost_by is not None:
            return False
        if not self._is_worth_keeping(reason):
            return False
        self._lost_by = reason, why
        _log.info(
            "request %s: DP group %d: %s; it is kept until one serves",
            left.dp_balance_id, left.dp_rank, why,
        )  # fmt: skip
        left.close()
        self._drop_upstream()
        self._held = self._answer = None
        self.not_before_ns = self._lobby.now_ns() + TOLD_WITHIN_NS
        self._wait()
        return True

    def _is_worth_keeping(self, reason: str) -> bool:
        """A group that refuses lives: nobody waits to see whether it does."""
        if self._lobby.waits_for_groups and reason != "refused":
            return self._elsewhere.may_be_kept(reason)
        self._services.dispatcher.refresh()
        is_away = self._lobby.is_worth_waiting(self._shape, self.unfit)
        return is_away and self._elsewhere.may_be_kept(reason)

    def _end(self, error: RequestError | None) -> None:
        super()._end(error)
        if self._waiter is not None:
            self._lobby.leave(self._waiter)
            self._lobby.wake()

    def _key(self) -> int:
        """Of whoever asks: the API key it sends if clients have their own, else its address."""
        name = self._request.header(b"authorization") if self._lobby.keys_differ else b""
        return hash(name or self._client.peer_host)
