"""
A client's connection: HTTP/1.1 in, one exchange at a time, answers in order.

Requests that come pipelined are parsed as they arrive and wait their turn; when
more wait than is sensible the connection stops reading.  A request that is
refused before it is complete (too large, not HTTP) is answered after those
before it, and the connection closes once the client has had the time to read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import httptools

from router.errors import (
    BadRequest,
    BodyTooLarge,
    HeadersTooLarge,
    RequestError,
    RequestTimeout,
)
from router.front_door.exchange import Client, Exchange, refusal
from router.front_door.message import Request

_MAX_PIPELINED = 16
_LINGER_S = 2.0
_WATCHED = frozenset((b"content-length", b"expect"))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Limits(NamedTuple):
    """What a client may ask of a connection."""

    max_request_bytes: int
    max_header_bytes: int
    keep_alive_s: float
    request_timeout_s: float


class Door(Protocol):
    """What a connection needs of its front door."""

    limits: Limits
    clock_s: Callable[[], float]

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
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._exchange: Exchange | None = None
        self._refused: RequestError | None = None
        self._refused_sent = False
        self._partial: _Partial | None = None
        self._reading = True
        self._advancing = False
        self._last_data_s = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._last_data_s = self._door.clock_s()
        self._door.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: whatever it waited for is given up."""
        self._transport = None
        self._waiting.clear()
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
        if self._refused is not None:
            return  # lingering: read and drop until the client has read the answer
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(BadRequest("protocol upgrades are not supported"))
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"not an HTTP/1.1 request: {error}"))
        self._advance()

    def pause_writing(self) -> None:
        """The client reads too slowly: so shall the upstream be read."""
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._exchange is not None:
            self._exchange.resume()

    # What the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._partial = _Partial()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        partial = self._partial
        if partial is not None:
            partial.target += url
            partial.head_bytes += len(url)
            if partial.head_bytes > self._door.limits.max_header_bytes:
                self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        partial = self._partial
        if partial is not None:
            lower = name.lower()
            partial.headers.append((lower, name, value))
            partial.head_bytes += len(name) + len(value) + 4
            if lower in _WATCHED:
                partial.watched[lower] = value
            if partial.head_bytes > self._door.limits.max_header_bytes:
                self._refuse_head()

    def on_headers_complete(self) -> None:
        """Refuse early what is declared too large, and tell a polite client to go on."""
        partial = self._partial
        if partial is None:
            return
        declared = int(partial.watched.get(b"content-length", 0))
        if declared > self._door.limits.max_request_bytes:
            self._refuse(self._too_large(declared))
        partial.expects_continue = partial.watched.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, data: bytes) -> None:
        """A piece of the body, chunked coding removed."""
        partial = self._partial
        if partial is None:
            return
        partial.size += len(data)
        if partial.size > self._door.limits.max_request_bytes:
            self._refuse(self._too_large(partial.size))
        else:
            partial.pieces.append(data)

    def on_message_complete(self) -> None:
        """The request is complete and waits its turn."""
        partial, self._partial = self._partial, None
        if partial is None or self._refused is not None:
            return
        request = Request(
            method=self._parser.get_method(),
            target=_origin_form(partial.target),
            headers=partial.headers,
            keep_alive=self._parser.should_keep_alive(),
            is_http10=self._parser.get_http_version() == "1.0",
            body=partial.pieces[0] if len(partial.pieces) == 1 else b"".join(partial.pieces),
            began_s=self._last_data_s,
        )
        self._waiting.append(request)

    # What the exchange calls

    def write(self, data: bytes) -> None:
        """Pass bytes on to the client, if it is still there."""
        if self._transport is not None:
            self._transport.write(data)

    def finished(self, *, keep_alive: bool) -> None:
        """Close, or go on with the next request."""
        self._exchange = None
        self._last_data_s = self._door.clock_s()
        if self._transport is None:
            return
        if keep_alive:
            if self._waiting or self._partial is not None or self._refused is not None:
                self._advance()
        else:
            self._waiting.clear()
            self._transport.close()

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
        if self._refused is None and self._partial is not None:
            if idle_s > self._door.limits.request_timeout_s:
                self._refuse(RequestTimeout(f"nothing of the request came for {idle_s:.0f} s"))
                self._advance()
        elif idle_s > self._door.limits.keep_alive_s:
            self._transport.close()

    def stop(self) -> None:
        """The front door stops: an idle connection closes now, a busy one after its answer."""
        if self._exchange is None and not self._waiting and self._transport is not None:
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
        while self._exchange is None and self._waiting and self._transport is not None:
            request = self._waiting.popleft()
            exchange = self._door.exchange(self, request)
            self._exchange = exchange
            exchange.start()
        self._advancing = False
        if self._exchange is None and self._refused is not None:
            self._send_refusal(self._refused)
        if self._exchange is None and self._partial is not None:
            self._continue(self._partial)
        self._regulate()

    def _continue(self, partial: _Partial) -> None:
        if partial.expects_continue and self._refused is None:
            partial.expects_continue = False
            self.write(_CONTINUE)

    def _regulate(self) -> None:
        """Stop reading while too many requests wait; go on when they do not."""
        should_read = len(self._waiting) < _MAX_PIPELINED
        if should_read == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = should_read
        if should_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _refuse_head(self) -> None:
        limit = self._door.limits.max_header_bytes
        self._refuse(HeadersTooLarge(f"request line and headers are over {limit} bytes"))

    def _too_large(self, size: int) -> BodyTooLarge:
        limit = self._door.limits.max_request_bytes
        return BodyTooLarge(f"the body has at least {size} bytes, allowed are {limit}")

    def _refuse(self, error: RequestError) -> None:
        """Take nothing more; _advance answers when what came before is answered."""
        if self._refused is None:
            self._refused = error
        self._partial = None

    def _send_refusal(self, error: RequestError) -> None:
        """Answer, half-close, and give the client time to read before the rest is dropped."""
        transport = self._transport
        if self._refused_sent or transport is None:
            return
        self._refused_sent = True
        transport.write(refusal(error, keep_alive=False))
        if transport.can_write_eof():
            transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_S, transport.close)


class _Partial:
    """A request that is still being read."""

    __slots__ = ("expects_continue", "head_bytes", "headers", "pieces", "size", "target", "watched")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes, bytes]] = []
        self.watched: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = 0
        self.head_bytes = 0
        self.expects_continue = False


def _origin_form(target: bytes) -> bytes:
    """Path and query of a target, also where a client wrote the absolute form."""
    if target.startswith((b"/", b"*")) or b"://" not in target:
        return target
    rest = target.partition(b"://")[2]
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/"
