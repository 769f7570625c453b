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
the end of the line.  An answer that settles nothing is told once in a line.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson

from balancer.assignment import Assignment
from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool

_log = logging.getLogger("levelhead.front_door")
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_ANSWER_S = 10.0  # a leader's event loop answers, not its step loop
_SEEN = re.compile(rb'"seen":\s*true')
_WRONG_EPOCH = 421


class _Life(NamedTuple):
    """One life of a group, and where it answers."""

    address: Address
    dp_rank: int
    epoch: int


class _Line:
    """The questions about one life."""

    def __init__(self, life: _Life, first: Assignment) -> None:
        self.life = life
        self.waiting = deque((first,))
        self._has_warned = False

    def warn(self, status: int) -> None:
        """The group answered what no leader should; say so once."""
        if self._has_warned:
            return
        self._has_warned = True
        _log.warning(
            "DP group %d answers %d when it is asked about a charge of its life %d; "
            "it is asked on, and the charge stays open",
            self.life.dp_rank, status, self.life.epoch,
        )  # fmt: skip


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
        *,
        instance_key: str = "",
    ) -> None:
        self._pool = pool
        self._front_door = front_door
        self._instance_key = instance_key.encode()
        self._epoch_of = epoch_of
        self._outcomes = outcomes
        self._sleep = sleep
        self._answer_limit_s = answer_limit_s
        self._lines: dict[_Life, _Line] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    @property
    def num_open(self) -> int:
        """Questions without an answer."""
        return sum(len(line.waiting) for line in self._lines.values())

    def ask(self, address: Address, assignment: Assignment) -> None:
        """Start asking; returns at once."""
        if self._is_stopped:
            return
        life = _Life(address, assignment.dp_rank, assignment.group_epoch)
        line = self._lines.get(life)
        if line is not None:
            line.waiting.append(assignment)
            return
        line = self._lines[life] = _Line(life, assignment)
        task = asyncio.get_running_loop().create_task(self._settle(line))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def stop(self) -> None:
        """Ask no more; what is open ends with this front door's epoch."""
        self._is_stopped = True
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _settle(self, line: _Line) -> None:
        """Ask what is in the line, until nothing is."""
        waiting, pause_s = line.waiting, _FIRST_PAUSE_S
        try:
            while waiting:
                outcome = await self._try(line)
                if outcome is not None:
                    waiting.popleft()
                    self._outcomes[outcome] += 1
                    pause_s = _FIRST_PAUSE_S
                    continue
                waiting.rotate(-1)
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            del self._lines[line.life]

    async def _try(self, line: _Line) -> str | None:
        """What became of the first charge in the line; None if that could not be learnt."""
        life = line.life
        try:
            if self._epoch_of(life.dp_rank) != life.epoch:
                return "epoch_over"
            reply = await self._reply(life, line.waiting[0])
        except Exception:  # noqa: BLE001  a mistake of ours must not drop the rest of the line
            _log.exception("DP group %d could not be asked about a charge", life.dp_rank)
            return None
        if reply is None:
            return None
        if reply.status == 200:
            return "seen" if _SEEN.search(reply.body) else "unseen"
        if reply.status == _WRONG_EPOCH:
            return "epoch_over"
        line.warn(reply.status)
        return None

    async def _reply(self, life: _Life, assignment: Assignment) -> _Reply | None:
        """The group's answer; None if it gave none."""
        try:
            connection = self._pool.take(life.address) or await self._pool.connect(life.address)
        except OSError:
            return None
        listening = _Listening()
        connection.send(listening, self._question(assignment))
        try:
            async with asyncio.timeout(self._answer_limit_s):
                return await listening.reply
        except TimeoutError:
            return None
        finally:
            if not listening.is_over:
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
            b"x-levelhead-instance-key: %s\r\ncontent-length: %d\r\n\r\n%s"
            % (self._instance_key, len(body), body)
        )


class _Reply(NamedTuple):
    """What a group answered."""

    status: int
    body: bytes


class _Listening:
    """Waits for the answer to one question."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[_Reply | None] = asyncio.get_running_loop().create_future()
        self.is_over = False
        self._status = 0
        self._body = b""

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        self._status, self._body = status, data

    def on_data(self, data: bytes) -> None:
        self._body += data

    def on_end(self) -> None:
        self._finish(_Reply(self._status, self._body))

    def on_lost(self, reason: str) -> None:
        self._finish(None)

    def _finish(self, reply: _Reply | None) -> None:
        self.is_over = True
        if not self.reply.done():
            self.reply.set_result(reply)
