"""
Connections to what answers: leaders of DP groups, and the control plane.

One connection carries one exchange at a time and is kept for the next.  The
body of a response is passed on as the bytes that came, framing included; the
parser runs beside them only to find where the message ends.  A listener hears
of a response in this order, and of nothing after `on_end` or `on_lost`:

    on_head  (on_data)*  on_end      or, from anywhere, on_lost
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol, cast

import httptools

from router.front_door.response_head import is_until_eof, span_of_head, status_of
from shm.group_table import GroupEntry

_MAX_HEAD_BYTES = 64 << 10


class Address(NamedTuple):
    """Where an upstream listens: host and port, or a Unix socket's path in `host` and port 0."""

    host: str
    port: int
    tls: str = ""
    """How its certificate is verified: see router.backends.tls; empty: plain HTTP."""

    @classmethod
    def of(cls, group: GroupEntry) -> Address:
        """Of a group of the table."""
        return cls(group.host, group.port, group.tls)


class Listener(Protocol):
    """What takes a response."""

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        """
        Status line and headers, with the empty line, and the body bytes that came with them.

        until_eof: the body ends with the connection.
        """

    def on_data(self, data: bytes) -> None:
        """A piece of the body as it came."""

    def on_end(self) -> None:
        """The message is complete; the connection has been given back."""

    def on_lost(self, reason: str) -> None:
        """The connection broke, or what came is not HTTP."""


class Keeper(Protocol):
    """Who makes connections, and keeps those that wait."""

    def give_back(self, connection: UpstreamConnection) -> None:
        """The connection's exchange is over; it can carry another."""

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""


class UpstreamConnection(asyncio.Protocol):
    """One connection, of one keeper."""

    def __init__(self, keeper: Keeper, address: Address, *, dechunk: bool = False) -> None:
        self._keeper = keeper
        self.address = address
        self._transport: asyncio.Transport | None = None
        self._listener: Listener | None = None
        self._dechunked: bytearray | None = bytearray() if dechunk else None
        self._has_said_end = False
        self.is_paused = False
        """Nothing is read: nobody knows what has come."""
        self.num_silent_ticks = 0
        """Of its keeper's, since something was read last or could not be."""
        self._begin()

    def _begin(self) -> None:
        target = self if self._dechunked is None else _Dechunker(self, self._dechunked)
        self._parser = httptools.HttpResponseParser(target)
        self._head: bytes | None = b""  # None once it was passed on
        self._complete = False
        self._excess = False
        self._reusable = False
        self._until_eof = False

    @property
    def is_open(self) -> bool:
        """Whether a request can still be written."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, and nobody here gave it up."""
        return self._transport is None

    def send(self, listener: Listener, request: bytes) -> None:
        """Write a whole request; its response goes to listener."""
        assert self._transport is not None
        assert self._listener is None
        self._listener = listener
        self._transport.write(request)

    def cancel(self) -> None:
        """
        Nobody wants the response any more.

        What was written still reaches the upstream before the connection
        closes, so a request that was sent is known to have been sent.
        """
        self._listener = None
        if self._transport is not None:
            self._transport.close()

    def drop(self) -> None:
        """Nobody wants what is left of the response; if nothing is, the connection is kept."""
        if self._complete:
            self._listener = _NOBODY
        else:
            self.cancel()

    def lose(self, reason: str) -> None:
        """
        Tell who waits for a response that it will not come, and close at once.

        An upstream that is stopped takes nothing: what it was to be sent is not waited for.
        """
        listener, self._listener = self._listener, None
        if self._transport is not None:
            self._transport.abort()
        if listener is not None:
            listener.on_lost(reason)

    def pause(self) -> None:
        """Stop reading: whoever listens is slower than the upstream."""
        if self.is_open:
            self.is_paused = True
            self._transport.pause_reading()  # type: ignore[union-attr]  # is_open checked it

    def resume(self) -> None:
        """Read again."""
        if self.is_open:
            self.is_paused, self.num_silent_ticks = False, 0
            self._transport.resume_reading()  # type: ignore[union-attr]  # is_open checked it

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        """Pass on what came, and finish when the message is complete."""
        self.num_silent_ticks = 0
        listener = self._listener
        if listener is None:
            self.cancel()  # bytes that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.lose(f"its answer is not HTTP: {error}")
            return
        if self._excess:
            self.lose("it answered more than once")
            return
        if self._head is None:
            listener.on_data(self._body(data))
        else:
            self._take_head(listener, data)
        if self._complete:
            self._finish()

    def eof_received(self) -> bool:
        """Let asyncio close our side too.  Over TLS uvloop calls this only if the peer said so."""
        self._has_said_end = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """An idle connection is forgotten; a response that is under way may have ended so."""
        self._transport = None
        self._keeper.forget(self)
        listener = self._listener
        if listener is not None and exc is None and self._is_ended_by_close():
            self._listener = None
            listener.on_end()
        else:
            self.lose(f"its connection was lost: {exc or 'closed by the peer'}")

    def _is_ended_by_close(self) -> bool:
        """Whether a connection that is closed now ends the body; over TLS that has to be said."""
        has_body = self._head is None and self._until_eof
        return has_body and (self._has_said_end or not self.address.tls)

    # What the parser calls

    def on_message_begin(self) -> None:
        """A second message in one exchange is an upstream's mistake: whose answer would it be?"""
        self._excess = self._complete

    def on_message_complete(self) -> None:
        """The response has ended (an interim one, 1xx, has not)."""
        if self._parser.get_status_code() >= 200:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()  # the parser forgets it after this

    def _take_head(self, listener: Listener, data: bytes) -> None:
        if self._head:
            data = self._head + data
        start, end = span_of_head(data)
        if (end or len(data)) - start > _MAX_HEAD_BYTES:
            self.lose(f"its headers are over {_MAX_HEAD_BYTES} bytes")
        elif end == 0:
            self._head = data[start:]
        else:
            head = data[start:end]
            self._head = None
            status = status_of(head)
            self._until_eof = not self._complete and is_until_eof(status, head)
            listener.on_head(status, head, self._body(data[end:]), until_eof=self._until_eof)

    def _body(self, data: bytes) -> bytes:
        """The piece as it came, or without chunked coding for a client that does not know it."""
        if self._dechunked is None:
            return data
        plain = bytes(self._dechunked)
        self._dechunked.clear()
        return plain

    def _finish(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return  # cancelled while its last bytes were passed on
        if self._reusable and self.is_open and self._dechunked is None:
            self._head = b""
            self._complete = False
            self.resume()  # a client that is slow with its last piece must not stop the next one
            self._keeper.give_back(self)
        else:
            self.cancel()
        listener.on_end()


class _Nobody:
    """Listens to what is left of a response that nobody wants."""

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        pass

    def on_data(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        pass

    def on_lost(self, reason: str) -> None:
        pass


_NOBODY = _Nobody()


class _Dechunker:
    """The parser's target for a client that does not know chunked coding (HTTP/1.0)."""

    def __init__(self, connection: UpstreamConnection, dechunked: bytearray) -> None:
        self.on_message_begin = connection.on_message_begin
        self.on_message_complete = connection.on_message_complete
        self._dechunked = dechunked

    def on_body(self, data: bytes) -> None:
        self._dechunked += data
