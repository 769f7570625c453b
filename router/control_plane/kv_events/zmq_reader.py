"""
Hears what one rank publishes: a SUB socket for each connection, and a DEALER to ask again.

    sub = [topic, number, payload]                          as it happens
    dealer -> ["", first number]                            what was missed
           <- ["", (topic,) number, payload] ... ["", (topic,) -1, ""]

Numbers are 8 bytes, big-endian.  ZeroMQ connects and connects again by itself; a monitor says
when it has and when that is lost, as a peer that is stopped is after some silence, too.
With each loss the sockets are made anew, so that nothing of the last connection is left in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from router.control_plane.kv_events.decoding import decoded
from router.control_plane.kv_events.rank import Batch, Rank
from router.control_plane.kv_events.readers import Wire

_NUMBER_BYTES = 8
_END = (-1).to_bytes(_NUMBER_BYTES, "big", signed=True)
_MAX_MESSAGE_BYTES = 16 << 20  # what 600,000 blocks take: more than are kept of a rank
_MAX_WAITING = 10_000  # batches in a socket
_HEARTBEAT_MS = 2_000
_SILENCE_MS = 10_000
_LONGEST_PAUSE_MS = 5_000
_MAX_REPEATED = 1_000_000
_MAX_SOCKETS = 8192  # four each of 1,024 groups; the default is 1,023 in all


class Limits(NamedTuple):
    """Seconds."""

    repeat_s: float = 5.0
    """For a batch that was asked for again to come."""
    pause_s: float = 5.0
    """Before listening is tried again that could not be begun."""


def zmq_wire(context: zmq.asyncio.Context) -> Wire:
    """Over that context, which is the caller's to end, and has no socket yet."""
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    return Wire(lambda rank: ZmqReader(context, rank).keep(), decoded)


class ZmqReader:
    """Hands all that it hears to one rank."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        rank: Rank,
        limits: Limits = Limits(),  # noqa: B008  a tuple of constants
    ) -> None:
        self._context = context
        self._rank = rank
        self._limits = limits

    async def keep(self) -> None:
        """Read for ever: one connection after the other."""
        while True:
            try:
                await self._with(zmq.SUB, self._read)
            except (
                zmq.ZMQError
            ) as error:  # one endpoint, or no descriptor: no reason for all to end
                self._rank.cannot_listen(str(error))
                await asyncio.sleep(self._limits.pause_s)

    async def _read(self, sub: zmq.asyncio.Socket) -> None:
        """One connection, from before it is made until it is lost."""
        _limit(sub)
        sub.subscribe(b"")
        monitor = sub.get_monitor_socket()
        try:
            sub.connect(self._rank.source.endpoint)
            await self._event(monitor, zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self._rank.connected()
            await self._ask_again()
            lost = asyncio.ensure_future(self._event(monitor, zmq.EVENT_DISCONNECTED))
            hearing = asyncio.ensure_future(self._hear(sub))
            try:
                await asyncio.wait((lost, hearing), return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    hearing.result()
            finally:
                for task in (lost, hearing):
                    task.cancel()
                await asyncio.gather(lost, hearing, return_exceptions=True)
            self._rank.lost()
        finally:
            sub.disable_monitor()
            monitor.close(linger=0)

    async def _hear(self, sub: zmq.asyncio.Socket) -> None:
        """Take over what comes, for ever."""
        while True:
            batch = _batch(await sub.recv_multipart())
            if batch is None:
                continue  # nothing of this protocol
            if self._rank.misses(batch):
                await self._ask_again()
            self._rank.take_live(batch)
            await asyncio.sleep(0)  # what waits in the socket comes without a pause

    async def _ask_again(self) -> None:
        """Have repeated what is due, as far as it is still there."""
        if self._rank.source.replay_endpoint:
            await self._with(zmq.DEALER, self._repeat)

    async def _repeat(self, dealer: zmq.asyncio.Socket) -> None:
        _limit(dealer)
        dealer.connect(self._rank.source.replay_endpoint)
        first = self._rank.due.to_bytes(_NUMBER_BYTES, "big")
        try:
            async with asyncio.timeout(self._limits.repeat_s):
                await dealer.send_multipart([b"", first])
            for _ in range(_MAX_REPEATED):
                async with asyncio.timeout(self._limits.repeat_s):
                    frames = await dealer.recv_multipart()
                if len(frames) > 1 and frames[-2] == _END:
                    return
                batch = _batch(frames)
                if batch is not None:
                    self._rank.take_repeated(batch)
                    await asyncio.sleep(0)
        except TimeoutError:
            return  # whoever asked sees what is missing

    async def _event(self, monitor: zmq.asyncio.Socket, wanted: int) -> None:
        """Wait until that has happened to the connection."""
        while True:
            told = await recv_monitor_message(monitor)
            if told["event"] == wanted:
                return

    async def _with(
        self,
        kind: int,
        use: Callable[[zmq.asyncio.Socket], Awaitable[None]],
    ) -> None:
        socket = self._context.socket(kind)
        try:
            await use(socket)
        finally:
            socket.close(linger=0)


def _limit(socket: zmq.asyncio.Socket) -> None:
    socket.set(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
    socket.set(zmq.RCVHWM, _MAX_WAITING)
    socket.set(zmq.RECONNECT_IVL_MAX, _LONGEST_PAUSE_MS)
    socket.set(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS)
    socket.set(zmq.IPV6, 1)


def _batch(frames: list[bytes]) -> Batch | None:
    """The batch in a message; None if there is none."""
    if len(frames) < 2 or len(frames[-2]) != _NUMBER_BYTES:
        return None
    return Batch(int.from_bytes(frames[-2], "big"), frames[-1])
