"""
Uncertain ends: asks a group what became of a charge.

A request was written, and before an answer its connection broke or its client
left.  Either the group took it over, and its accepted counter shows the
charge, or the request never got that far.  `POST /settle` makes the second
case the first: after its answer the charge is in the accepted counter, exactly
once, whatever happens to the request.

So a question is asked until it is answered, or until the life of the group
that it is about is over, because charges end with it: the group table has a
later epoch, or who answers says that it is another life (421).  A group that
is stopped and not dead is asked again for as long as it stands.

The questions about one life of a group wait in a line and are asked one after
the other over one connection.  So a group that died with a thousand requests
is not knocked at a thousand times a second.  One that is not answered goes to
the end of the line.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson

from balancer.assignment import Assignment
from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_ANSWER_S = 10.0  # a leader's event loop answers, not its step loop
_SEEN = re.compile(rb'"seen":\s*true')


class _Life(NamedTuple):
    """One life of a group, and where it answers."""

    address: Address
    dp_rank: int
    epoch: int


class Settlement:
    """
    Asks, and asks again if the asking itself was lost: the question is idempotent.

    `epoch_of` tells the newest epoch that is known of a group; `outcomes`
    counts seen, unseen and epoch_over.
    """

    def __init__(
        self,
        pool: UpstreamPool,
        front_door: str,
        epoch_of: Callable[[int], int],
        outcomes: Counter[str],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        answer_limit_s: float = _ANSWER_S,
    ) -> None:
        self._pool = pool
        self._front_door = front_door
        self._epoch_of = epoch_of
        self._outcomes = outcomes
        self._sleep = sleep
        self._answer_limit_s = answer_limit_s
        self._lines: dict[_Life, deque[Assignment]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    @property
    def num_open(self) -> int:
        """Questions without an answer."""
        return sum(len(line) for line in self._lines.values())

    def ask(self, address: Address, assignment: Assignment) -> None:
        """Start asking; returns at once."""
        if self._is_stopped:
            return
        life = _Life(address, assignment.dp_rank, assignment.group_epoch)
        line = self._lines.get(life)
        if line is not None:
            line.append(assignment)
            return
        self._lines[life] = deque((assignment,))
        task = asyncio.get_running_loop().create_task(self._settle(life))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def stop(self) -> None:
        """Ask no more; what is open ends with this front door's epoch."""
        self._is_stopped = True
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _settle(self, life: _Life) -> None:
        """Ask what is in the line, until nothing is."""
        line, pause_s = self._lines[life], _FIRST_PAUSE_S
        try:
            while line:
                outcome = await self._outcome(life, line[0])
                if outcome is not None:
                    line.popleft()
                    self._outcomes[outcome] += 1
                    pause_s = _FIRST_PAUSE_S
                    continue
                line.rotate(-1)
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            del self._lines[life]

    async def _outcome(self, life: _Life, assignment: Assignment) -> str | None:
        """What became of the charge; None if that could not be learnt."""
        if self._epoch_of(life.dp_rank) != life.epoch:
            return "epoch_over"
        try:
            connection = self._pool.take(life.address) or await self._pool.connect(life.address)
        except OSError:
            return None
        answer = _Answer()
        connection.send(answer, self._question(assignment))
        try:
            async with asyncio.timeout(self._answer_limit_s):
                return await answer.outcome
        except TimeoutError:
            return None
        finally:
            if not answer.is_over:
                connection.cancel()

    def _question(self, assignment: Assignment) -> bytes:
        question = {
            "dp_balance_id": assignment.dp_balance_id,
            "front_door": self._front_door,
            "charge_tokens": assignment.charge_tokens,
            "group_epoch": assignment.group_epoch,
        }
        body = orjson.dumps(question)
        return (
            b"POST /settle HTTP/1.1\r\nhost: group\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )


class _Answer:
    """Listens for the answer to one question."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.is_over = False
        self._status = 0
        self._body = b""

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        self._status, self._body = status, data

    def on_data(self, data: bytes) -> None:
        self._body += data

    def on_end(self) -> None:
        if self._status == 200:
            self._settle("seen" if _SEEN.search(self._body) else "unseen")
        else:
            self._settle("epoch_over" if self._status == 421 else None)

    def on_lost(self, reason: str) -> None:
        self._settle(None)

    def _settle(self, outcome: str | None) -> None:
        self.is_over = True
        if not self.outcome.done():
            self.outcome.set_result(outcome)
