"""
The load generator: keep-alive connections that send prepared requests and time the answers.

It runs in the process that measures and shares the machine with the proxy, so
it does little: it looks at the head of a response and at where the response
ends.  That the bytes are right is checked once beforehand, in
`bench_proxy.check_answer`.

A window is exact: it starts with no request in flight, nothing is sent after
its end, and it is over when the last answer is complete.  So CPU time spent in
a window belongs to the requests that are counted in it.

    closed loop   each connection sends again as soon as its answer is complete
    open loop     requests are sent at fixed times on idle connections; if none
                  is idle the request waits, and its latency includes the wait
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import NamedTuple, cast

GRACE_S = 20.0  # how long after its end a window waits for answers
_LAST_CHUNK = b"0\r\n\r\n"


class LoadError(Exception):
    """The proxy under load answered wrongly, closed a connection, or not at all."""


class Head(NamedTuple):
    """Where a response's body begins, and its length if the head tells."""

    num_bytes: int
    body_bytes: int | None  # None: chunked


@dataclass
class Timings:
    """What a window measured: one entry a request, in the order of completion."""

    first_ns: array[int] = field(default_factory=lambda: array("q"))  # until the first body byte
    total_ns: array[int] = field(default_factory=lambda: array("q"))  # until the last
    elapsed_ns: int = 0


def parse_head(data: bytes) -> Head | None:
    """Read the head of a response, or None if it is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not data.startswith(b"HTTP/1.1 200"):
        raise LoadError(f"not a 200 response: {data[:200]!r}")
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return Head(end + 4, None)
    return Head(end + 4, int(head[at + 17 :].split(b"\r\n", 1)[0]))


class Connection(asyncio.Protocol):
    """One client connection; at most one request in flight."""

    def __init__(self, on_done: Callable[[Connection], None]) -> None:
        self._on_done = on_done
        self._head: Head | None = None
        self._received = b""  # before the head is complete: all; after it: the last bytes
        self._body_bytes = 0
        self._closing = False
        self.in_flight = False
        self.start_ns = self.first_ns = self.end_ns = 0
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail: servers are told to keep connections, and the client closes them."""
        if not self._closing:
            self._fail(exc or LoadError("the proxy closed a connection"))

    def send(self, request: bytes, start_ns: int) -> None:
        """Send request; on_done is called when its answer is complete."""
        self._head, self._received, self._body_bytes = None, b"", 0
        self.in_flight, self.start_ns, self.first_ns = True, start_ns, 0
        self._transport.write(request)

    def close(self) -> None:
        """Close without calling on_done."""
        self._closing = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Follow the answer to its end."""
        received = self._received + data if self._received else data
        if self._head is None:
            try:
                self._head = parse_head(received)
            except LoadError as error:
                self._fail(error)
                return
            if self._head is None:
                self._received = received
                return
            self._body_bytes = len(received) - self._head.num_bytes
        else:
            self._body_bytes += len(data)
        if self._body_bytes and not self.first_ns:
            self.first_ns = perf_counter_ns()
        if self._is_complete(received):
            self.in_flight, self.end_ns = False, perf_counter_ns()
            self._on_done(self)

    def _is_complete(self, received: bytes) -> bool:
        assert self._head is not None
        if self._head.body_bytes is not None:
            self._received = b""
            return self._body_bytes >= self._head.body_bytes
        self._received = received[-len(_LAST_CHUNK) :]
        return self._body_bytes >= len(_LAST_CHUNK) and self._received == _LAST_CHUNK

    def _fail(self, error: Exception) -> None:
        self.in_flight, self.error = False, error
        self._on_done(self)


class Load(ABC):
    """The connections to one proxy, and the windows run over them."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._requests: Iterator[bytes] = itertools.cycle([request_bytes(body) for body in bodies])
        self._loop = asyncio.get_running_loop()
        self._connections: list[Connection] = []
        self._timings = Timings()
        self._stop_ns = 0
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def connect(self, ports: Sequence[int], num_connections: int) -> None:
        """Open connections to the ports in turn, one by one: some proxies have short backlogs."""
        for port in itertools.islice(itertools.cycle(ports), num_connections):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._done), "127.0.0.1", port
            )
            self._connections.append(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()

    async def run(self, window_s: float) -> Timings:
        """Run one window."""
        self._timings, self._over = Timings(), self._loop.create_future()
        start_ns = perf_counter_ns()
        self._stop_ns = start_ns + int(window_s * 1e9)
        self._begin()
        try:
            await asyncio.wait_for(self._over, window_s + GRACE_S)
        except TimeoutError:
            raise LoadError(f"no answer within {GRACE_S:.0f} s after the window") from None
        self._timings.elapsed_ns = perf_counter_ns() - start_ns
        return self._timings

    def _done(self, connection: Connection) -> None:
        if connection.error is not None:
            if not self._over.done():
                self._over.set_exception(connection.error)
            return
        self._timings.first_ns.append(connection.first_ns - connection.start_ns)
        self._timings.total_ns.append(connection.end_ns - connection.start_ns)
        self._proceed(connection)

    def _finish_if_quiet(self) -> None:
        if not self._over.done() and not any(c.in_flight for c in self._connections):
            self._over.set_result(None)

    @abstractmethod
    def _begin(self) -> None:
        """Send the first requests of a window."""

    @abstractmethod
    def _proceed(self, connection: Connection) -> None:
        """Use a connection that has just become idle."""


class ClosedLoop(Load):
    """Each connection sends again as soon as its answer is complete."""

    def _begin(self) -> None:
        for connection in self._connections:
            connection.send(next(self._requests), perf_counter_ns())

    def _proceed(self, connection: Connection) -> None:
        if connection.end_ns < self._stop_ns:
            connection.send(next(self._requests), connection.end_ns)
        else:
            self._finish_if_quiet()


class OpenLoop(Load):
    """Requests are sent at fixed times, whatever became of the earlier ones."""

    def __init__(self, bodies: Sequence[bytes], requests_per_s: int) -> None:
        super().__init__(bodies)
        self._interval_ns = 1_000_000_000 // requests_per_s
        self._due_ns = 0  # when the next request is to be sent
        self._idle: deque[Connection] = deque()
        self._overdue: deque[int] = deque()  # when the requests that wait were due

    def _begin(self) -> None:
        self._idle = deque(self._connections)
        self._due_ns = perf_counter_ns()
        self._send_due()

    def _send_due(self) -> None:
        """Send what is due by now, and come back for the next."""
        now_ns = perf_counter_ns()
        while self._due_ns <= now_ns and self._due_ns < self._stop_ns:
            if self._idle:
                self._idle.popleft().send(next(self._requests), perf_counter_ns())
            else:
                self._overdue.append(self._due_ns)
            self._due_ns += self._interval_ns
        if self._over.done():
            return
        if self._due_ns < self._stop_ns:
            self._loop.call_later((self._due_ns - now_ns) / 1e9, self._send_due)
        else:
            self._finish_if_quiet()

    def _proceed(self, connection: Connection) -> None:
        if self._overdue:
            connection.send(next(self._requests), self._overdue.popleft())
            return
        self._idle.append(connection)
        if self._due_ns >= self._stop_ns:
            self._finish_if_quiet()


def request_bytes(body: bytes) -> bytes:
    """A whole HTTP request for a chat completion."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\n"
        f"accept: */*\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
