"""
Uncertain ends: asks a group what became of a charge.

A request was written, and before an answer its connection broke or its client
left.  Either the
group took it over, and its accepted counter shows the charge, or the request
never got that far.  `POST /settle` makes the second case the first: after its
answer the charge is in the accepted counter, exactly once, whatever happens to
the request.  A group that cannot be asked is gone; its charges end with its
epoch.
"""

from __future__ import annotations

import asyncio
import logging

import orjson

from balancer.assignment import Assignment
from router.front_door.upstream import Address, UpstreamPool

_log = logging.getLogger("levelhead.front_door")
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.2
_ANSWER_S = 10.0  # a leader's event loop answers, not its step loop


class Settlement:
    """Asks, and asks again if the asking itself was lost: the question is idempotent."""

    def __init__(self, pool: UpstreamPool, slot: int, epoch: int) -> None:
        self._pool = pool
        self._front_door = f"{slot}/{epoch}"
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, address: Address, assignment: Assignment) -> None:
        """Start asking; returns at once."""
        task = asyncio.get_running_loop().create_task(self._ask(address, assignment))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, address: Address, assignment: Assignment) -> None:
        request = self._request(assignment)
        for attempt in range(_ATTEMPTS):
            if await self._asked_once(address, request):
                return
            await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
        _log.warning(
            "DP group %d does not answer for %s (%d tokens): they end with its epoch",
            assignment.dp_rank,
            assignment.dp_balance_id,
            assignment.charge_tokens,
        )

    async def _asked_once(self, address: Address, request: bytes) -> bool:
        try:
            connection = await self._pool.connect(address)
        except OSError:
            return False
        answer = _Answer()
        connection.send(answer, request)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer.done == 200
        except TimeoutError:
            connection.cancel()
            return False

    def _request(self, assignment: Assignment) -> bytes:
        question = {
            "dp_balance_id": assignment.dp_balance_id,
            "front_door": self._front_door,
            "charge_tokens": assignment.charge_tokens,
        }
        body = orjson.dumps(question)
        return (
            b"POST /settle HTTP/1.1\r\nhost: group\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )


class _Answer:
    """Listens for a status only; 0 if the connection was lost."""

    def __init__(self) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._status = 0

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        self._status = status

    def on_data(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        self._settle(self._status)

    def on_lost(self, reason: str) -> None:
        self._settle(0)

    def _settle(self, status: int) -> None:
        if not self.done.done():
            self.done.set_result(status)
