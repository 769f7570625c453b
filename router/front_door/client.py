"""
A client's connection: one exchange at a time, answers in order.

Requests that come pipelined wait their turn; when more wait than is sensible
the connection stops reading.  A request that is refused before it is complete
(too large, not HTTP) is answered after those before it, and the connection
closes once the client has had the time to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from router.errors import RequestError, RequestTimeout
from router.front_door.exchange import Client, Exchange, refusal
from router.front_door.message import Request, closing
from router.front_door.meters import Meters
from router.front_door.request_reader import Limits, RequestReader

_MAX_PIPELINED = 16
_LINGER_S = 2.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Door(Protocol):
    """What a connection needs of its front door."""

    limits: Limits
    clock_s: Callable[[], float]
    meters: Meters

    @property
    def is_stopping(self) -> bool:
        """Whether connections should close after the answer at hand."""

    def opened(self, connection: ClientConnection) -> None:
        """A client connected."""

    def closed(self, connection: ClientConnection) -> None:
        """A client's connection is gone."""

    def exchange(self, client: Client, request: Request) -> Exchange:
        """The exchange that answers the request."""


class ClientConnection(asyncio.Protocol):
    """One client's connection, from accept to close."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(door.limits)
        self._exchange: Exchange | None = None
        self._refused_sent = False
        self._reading = True
        self._writing_paused = False
        self._advancing = False
        self._last_data_s = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._last_data_s = self._door.clock_s()
        self._door.opened(self)
        if self._door.is_stopping:  # accepted just before
            self.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: whatever it waited for is given up."""
        self._transport = None
        self._reader.complete.clear()
        self._door.closed(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()

    def eof_received(self) -> bool:
        """A client that stops sending has left, as with other servers."""
        return False

    def data_received(self, data: bytes) -> None:
        """Parse, and start what can be started."""
        self._last_data_s = self._door.clock_s()
        self._door.meters.received_bytes += len(data)
        if self._reader.refused is None:  # else read and drop, until the client read the answer
            self._reader.feed(data, self._last_data_s)
            self._advance()

    def pause_writing(self) -> None:
        """The client reads too slowly: so shall the upstream be read."""
        self._writing_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writing_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._advance()

    # What the exchange calls

    def write(self, data: bytes) -> None:
        """Pass bytes on to the client, if it is still there."""
        if self._transport is not None:
            self._door.meters.sent_bytes += len(data)
            self._transport.write(data)

    def finished(self, *, keep_alive: bool) -> None:
        """Close, or go on with the next request."""
        self._exchange = None
        self._last_data_s = self._door.clock_s()
        if self._transport is None:
            return
        if keep_alive and not self.is_closing:
            self._advance()
        else:
            self._reader.complete.clear()
            self._transport.close()

    @property
    def peer_host(self) -> str:
        """Where the client is; empty if it has gone."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if name else ""

    @property
    def is_closing(self) -> bool:
        """Whether no further request will be taken on this connection."""
        return self._door.is_stopping

    # What the front door calls

    def check_time(self, now_s: float) -> None:
        """Close what is idle for too long, and refuse what takes too long to be sent."""
        idle_s = now_s - self._last_data_s
        if self._exchange is not None or self._transport is None:
            return
        if self._reader.is_within:
            if idle_s > self._door.limits.request_timeout_s:
                reason = f"nothing of the request came for {idle_s:.0f} s"
                self._reader.refuse(RequestTimeout(reason))
                self._advance()
        elif idle_s > self._door.limits.keep_alive_s:
            self._transport.close()

    def stop(self) -> None:
        """The front door stops: an idle connection closes now, a busy one after its answer."""
        if self._transport is not None and self._exchange is None and not self._reader.complete:
            self._transport.close()

    def abort(self) -> None:
        """The front door has no more time."""
        if self._transport is not None:
            self._transport.abort()

    # Inside

    def _advance(self) -> None:
        """Start the next request if none is under way."""
        if self._advancing:
            return  # an exchange that finished at once: the loop below goes on
        self._advancing = True
        waiting = self._reader.complete
        try:
            while waiting and self._may_begin():
                exchange = self._door.exchange(self, waiting.popleft())
                self._exchange = exchange
                exchange.start()
        finally:
            self._advancing = False
        if self._exchange is None and not waiting:
            self._answer_incomplete()
        if self._reading is self._has_enough():
            self._regulate()

    def _may_begin(self) -> bool:
        """Whether a request's turn has come; not while the client takes no answers."""
        return self._exchange is None and self._transport is not None and not self._writing_paused

    def _answer_incomplete(self) -> None:
        """What can be said before a request is complete: that it is refused, or to go on."""
        reader = self._reader
        if reader.refused is not None:
            self._send_refusal(reader.refused)
        elif reader.is_within and reader.expects_continue:
            reader.expects_continue = False
            self.write(_CONTINUE)

    def _has_enough(self) -> bool:
        """Whether as many requests wait, or as many bytes of them, as is sensible."""
        waiting = self._reader.complete
        if not waiting:
            return False
        num_bytes = sum(len(request.body) for request in waiting)
        return len(waiting) >= _MAX_PIPELINED or num_bytes >= self._door.limits.max_request_bytes

    def _regulate(self) -> None:
        """Stop reading while too many requests wait; go on when they do not."""
        if self._transport is None or self._transport.is_closing():
            return
        self._reading = not self._reading
        if self._reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _send_refusal(self, error: RequestError) -> None:
        """Answer, half-close, and give the client time to read before the rest is dropped."""
        transport = self._transport
        if self._refused_sent or transport is None or transport.is_closing():
            return
        self._refused_sent = True
        self.write(closing(refusal(error)))
        if transport.can_write_eof():
            transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_S, transport.close)
