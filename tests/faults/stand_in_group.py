"""
A stand-in for a DP group: speaks the leader's protocol, and ends requests when it is told to.

What it holds and what it has accepted change together, when a request arrives, as in a leader.
"""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

from shm.load import Accepted, LoadReport

EPOCH = 1
_ANSWER = json.dumps({"choices": [{"text": "x", "finish_reason": "length"}]}).encode()
_MAX_REQUESTS = 1 << 20


class Held(NamedTuple):
    """A request that is open."""

    tokens: int
    slot: int
    done: asyncio.Event


class StandInGroup:
    """An asyncio server on a free port."""

    def __init__(self, dp_rank: int, num_doors: int, arrived: asyncio.Condition) -> None:
        self.dp_rank = dp_rank
        self.port = 0
        self.held: dict[str, Held] = {}
        self._arrived = arrived
        self._accepted = [Accepted(0, 0, 0, 0, 0)] * num_doors
        self._num_steps = 0
        self._server: asyncio.Server | None = None

    @property
    def holding_tokens(self) -> int:
        """Tokens of its open requests."""
        return sum(held.tokens for held in self.held.values())

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    def end(self, dp_balance_id: str) -> None:
        """Answer a request."""
        held = self.held.pop(dp_balance_id)
        before = self._accepted[held.slot]
        requests, ids = before.ended.plus(int(dp_balance_id, 16))
        self._accepted[held.slot] = before._replace(ended_requests=requests, ended_ids=ids)
        held.done.set()

    def report(self, now_ns: int) -> LoadReport:
        """What it holds and has accepted, now."""
        self._num_steps += 1
        return LoadReport(
            dp_rank=self.dp_rank,
            group_epoch=EPOCH,
            sampled_ns=now_ns,
            holding_tokens=self.holding_tokens,
            running_requests=len(self.held),
            waiting_requests=0,
            waiting_uncached_tokens=0,
            kv_used_tokens=self.holding_tokens,
            kv_capacity_tokens=1 << 30,
            max_requests=_MAX_REQUESTS,
            num_steps=self._num_steps,
            step_time_ns=0,
            step_prefill_tokens=0,
            computing_tokens=0,
            accepted=tuple(self._accepted),
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                if "x-levelhead-dp-balance-id" in headers:
                    await self._hold(headers)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (len(_ANSWER), _ANSWER)
                )
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _hold(self, headers: dict[str, str]) -> None:
        slot, epoch = map(int, headers["x-levelhead-front-door"].split("/"))
        tokens = int(headers["x-levelhead-charge-tokens"])
        before = self._accepted[slot]
        if before.front_door_epoch != epoch:
            before = Accepted(epoch, 0, 0, 0, 0)
        before = before._replace(tokens=before.tokens + tokens, requests=before.requests + 1)
        self._accepted[slot] = before
        held = Held(tokens, slot, asyncio.Event())
        self.held[headers["x-levelhead-dp-balance-id"]] = held
        async with self._arrived:
            self._arrived.notify_all()
        await held.done.wait()
