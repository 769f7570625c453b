"""
One request's way to an upstream and back, whoever the upstream is.

An exchange ends in exactly one of three ways, and `_over` keeps it to one:
the response was complete, it could not be completed, or the client left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Protocol

from router.errors import InternalError, OutOfDescriptors, RequestError
from router.front_door.message import CLOSE, Request, closing, head_of, passed_head, response
from router.front_door.upstream import Address, UpstreamConnection
from router.front_door.upstream_pool import UpstreamPool
from router.shortage import is_shortage

_log = logging.getLogger("levelhead.front_door")
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Client(Protocol):
    """The side that asked."""

    def write(self, data: bytes) -> None:
        """Pass bytes on to the client."""

    def finished(self, *, keep_alive: bool) -> None:
        """The response is complete; keep_alive: the connection may carry the next."""

    @property
    def peer_host(self) -> str:
        """Where the client is."""

    @property
    def is_closing(self) -> bool:
        """Whether no further request will be taken on this connection."""


class Exchange:
    """Relays one request and its response; subclasses say where to, and keep books."""

    def __init__(self, client: Client, request: Request, pool: UpstreamPool) -> None:
        self._client = client
        self._request = request
        self._pool = pool
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._is_reused = False
        """Whether the connection it is on has carried an exchange before."""
        self._over = False
        self._head_passed = False
        self._keep_alive = request.keep_alive

    def start(self) -> None:
        """Set out; must lead to client.finished, at once or later."""
        raise NotImplementedError

    # What the client's connection calls

    def client_lost(self) -> None:
        """The client left: give up whatever stage the exchange is at."""
        if self._over:
            return
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.cancel()
        self._end(None)

    def pause(self) -> None:
        """The client reads too slowly."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """The client reads again."""
        if self._upstream is not None:
            self._upstream.resume()

    # What the upstream connection calls

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        """Pass the head on, with ours added, and what came with it."""
        request = self._request
        if until_eof or request.is_http10 or self._client.is_closing:
            self._keep_alive = False
        extra = self._head_lines() if self._keep_alive else self._head_lines() + CLOSE
        self._head_passed = True
        passed = passed_head(head, extra, without_coding=request.is_http10)
        self._client.write(passed + data if request.method != b"HEAD" else passed)

    def on_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._request.method != b"HEAD":
            self._client.write(data)

    def on_end(self) -> None:
        """The response is complete."""
        self._upstream = None
        self._end(None)
        self._client.finished(keep_alive=self._keep_alive)

    def on_lost(self, reason: str) -> None:
        """The upstream was lost after the request was written."""
        self._upstream = None
        self._fail(self._lost_error(reason))

    # What subclasses use and fill in

    def _send(self, address: Address, payload: bytes) -> None:
        connection = None if self._request.is_http10 else self._pool.take(address)
        self._is_reused = connection is not None
        if connection is None:
            self._begin(self._connect_and_send(address, payload))
        else:
            self._write(connection, payload)

    def _write(self, connection: UpstreamConnection, payload: bytes) -> None:
        self._upstream = connection
        connection.send(self, payload)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Do work beside the event loop's callbacks; the client leaving cancels it."""
        self._connecting = asyncio.get_running_loop().create_task(work)
        self._connecting.add_done_callback(self._began)

    def _began(self, task: asyncio.Task[None]) -> None:
        """Whatever went wrong in the task, its client gets an answer."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("an exchange failed", exc_info=error)
            if not self._over:
                self._fail(InternalError(f"internal error: {type(error).__name__}"))

    async def _connect_and_send(self, address: Address, payload: bytes) -> None:
        try:
            connection = await self._pool.connect(address, dechunk=self._request.is_http10)
        except OSError as error:
            self._connecting = None
            self._not_connected(error)
            return
        self._connecting = None
        self._reached()
        self._write(connection, payload)

    def _reached(self) -> None:
        """A connection was made for this request."""

    def _not_connected(self, error: OSError) -> None:
        if is_shortage(error):  # ours to mend: every other upstream would fail alike
            _log.warning("no connection can be made: %s", error)
            self._fail(OutOfDescriptors(f"this front door cannot connect: {error}"))
        else:
            self._unreachable(f"cannot connect: {str(error) or 'timed out'}")

    def _fail(self, error: RequestError) -> None:
        """End with an error: as a response, or if one has begun, as honestly as it still can be."""
        self._end(error)
        if self._head_passed:
            tail = self._broken_tail(error)
            self._client.write(tail)
            whole = tail.endswith(LAST_CHUNK)  # then the client knows where the answer ends
            self._client.finished(keep_alive=self._keep_alive and whole)
        else:
            self._answer_with(refusal(error, self._head_lines()))

    def _answer_with(self, answer: bytes) -> None:
        """A whole response of our own."""
        keep_alive = self._keep_alive and not self._client.is_closing
        if not keep_alive:
            answer = closing(answer)
        self._client.write(head_of(answer) if self._request.method == b"HEAD" else answer)
        self._client.finished(keep_alive=keep_alive)

    def _end(self, error: RequestError | None) -> None:
        self._over = True

    def _head_lines(self) -> bytes:
        return b""

    def _lost_error(self, reason: str) -> RequestError:
        raise NotImplementedError

    def _unreachable(self, reason: str) -> None:
        self._fail(self._lost_error(reason))

    def _broken_tail(self, error: RequestError) -> bytes:
        return b""  # the connection closes before the body is complete: the client sees that


def refusal(error: RequestError, extra: bytes = b"") -> bytes:
    """A whole response that tells error to the client."""
    if error.retry_after_s is not None:
        extra += b"retry-after: %d\r\n" % error.retry_after_s
    return response(error.status, error.body(), extra)
