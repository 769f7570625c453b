"""DP groups over real sockets, in a test's hand."""

import asyncio
import socket
import struct
from contextlib import ExitStack, asynccontextmanager, contextmanager

import httptools
import orjson

from tests.router.fakes import soon, until


class Received:
    """A request as a group got it, and the connection to answer it on."""

    def __init__(self, connection, raw):
        self._connection = connection
        self.raw = raw
        self.method = b""
        self.target = b""
        self.headers = []
        self.body = b""

    @property
    def head(self):
        return self.raw.partition(b"\r\n\r\n")[0]

    def header(self, name):
        """Values of all headers of that name."""
        return [value for header, value in self.headers if header.lower() == name]

    def write(self, data):
        self._connection.transport.write(data)

    def answer(self, body=b'{"ok":true}', status=b"200 OK", extra=b""):
        """A whole answer with a length."""
        self.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s"
            % (status, extra, len(body), body)
        )

    def close(self):
        self._connection.transport.close()

    def abort(self):
        """Break the connection: the door gets a reset, not an end."""
        transport = self._connection.transport
        lost = transport.get_extra_info("socket")
        lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def end_unsaid(self):
        """End the connection below TLS, which does not say so."""
        self._connection.transport.abort()

    @property
    def unsent_bytes(self):
        """What was written and nobody has taken."""
        return self._connection.transport.get_write_buffer_size()

    @property
    def connection_is_lost(self):
        return self._connection.is_lost


class _GroupConnection(asyncio.Protocol):
    def __init__(self, group):
        self._group = group
        self._parser = httptools.HttpRequestParser(self)
        self._raw = b""
        self._received = None
        self.transport = None
        self.is_lost = False

    def connection_made(self, transport):
        self.transport = transport
        self._group.connections.append(self)
        if self._group.hangs_up:
            transport.abort()

    def data_received(self, data):
        self._raw += data
        self._parser.feed_data(data)

    def connection_lost(self, exc):
        self.is_lost = True

    def on_message_begin(self):
        self._received = Received(self, b"")

    def on_url(self, url):
        self._received.target += url

    def on_header(self, name, value):
        self._received.headers.append((name, value))

    def on_body(self, data):
        self._received.body += data

    def on_message_complete(self):
        received, self._received = self._received, None
        received.method = self._parser.get_method()
        received.raw, self._raw = self._raw, b""  # the door never pipelines
        self._group.take(received)


class FakeGroup:
    """
    A leader that records what it gets and answers as it is told.

    `respond` is called with each request; without it a test takes requests
    from `next_request` and answers them itself.  Questions of settlement are
    answered at once and kept apart.
    """

    def __init__(self, respond=None):
        self.respond = respond
        self.hangs_up = False
        self.received = []
        self.settled = []
        self.connections = []
        self._waiting = asyncio.Queue()
        self._server = None
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def listening(cls, respond=None, path=None, tls=None):
        """A group on a free port, with TLS of that context, or on a Unix socket."""
        group, loop = cls(respond), asyncio.get_running_loop()
        if path is None:
            group._server = await loop.create_server(
                lambda: _GroupConnection(group), "127.0.0.1", 0, ssl=tls
            )
            group.port = group._server.sockets[0].getsockname()[1]
        else:
            group._server = await loop.create_unix_server(lambda: _GroupConnection(group), path)
        try:
            yield group
        finally:
            group._server.close()
            for connection in group.connections:
                connection.transport.abort()
            await until(lambda: all(connection.is_lost for connection in group.connections))

    def take(self, received):
        if received.target == b"/settle":
            self.settled.append(orjson.loads(received.body))
            received.answer(b'{"seen":true}')
            return
        self.received.append(received)
        if self.respond is not None:
            self.respond(received)
        else:
            self._waiting.put_nowait(received)

    def stop_listening(self):
        """From now on connections are refused."""
        self._server.close()

    async def listen_again(self):
        """At the same port; for a group that stopped to."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _GroupConnection(self), "127.0.0.1", self.port
        )

    async def next_request(self):
        return await soon(self._waiting.get())

    @property
    def has_request(self):
        """Whether next_request returns at once."""
        return not self._waiting.empty()


@contextmanager
def silent_port():
    """A port whose backlog is full: connecting to it neither succeeds nor fails."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(3):
            fills = stack.enter_context(socket.socket())
            fills.setblocking(False)
            fills.connect_ex(("127.0.0.1", port))
        yield port


@contextmanager
def refusing_port():
    """A port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def charge_of(received):
    """Tokens that a request charges its group with."""
    return int(received.header(b"x-levelhead-charge-tokens")[0])
