"""Raw HTTP clients over real sockets, and what they send."""

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import orjson

from tests.router.fakes import soon


class Response(NamedTuple):
    """A response as it came: the status, the header lines, and the bytes after them."""

    status: int
    lines: list[bytes]
    body: bytes

    def header(self, name):
        values = [line.partition(b":") for line in self.lines]
        found = [value.strip() for key, _, value in values if key.lower() == name]
        return found[0] if found else None

    @property
    def error(self):
        return orjson.loads(self.body)["error"]


class Client:
    """A raw client: sends bytes, reads responses, or does not."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, port, **settings):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **settings)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await soon(writer.wait_closed())

    def send(self, data):
        self._writer.write(data)

    @property
    def unsent_bytes(self):
        """What was sent and the system has not taken."""
        return self._writer.transport.get_write_buffer_size()

    async def flushed(self):
        await soon(self._writer.drain())

    async def head(self):
        """Status and header lines of the next response; its body is yet to be read."""
        raw = await soon(self._reader.readuntil(b"\r\n\r\n"))
        first, *lines = raw[:-4].split(b"\r\n")
        return Response(int(first.split(b" ")[1]), lines, b"")

    async def response(self):
        """The next response that has a length."""
        head = await self.head()
        body = await self.exactly(int(head.header(b"content-length")))
        return head._replace(body=body)

    async def exactly(self, num_bytes):
        return await soon(self._reader.readexactly(num_bytes))

    async def line(self):
        return await soon(self._reader.readuntil(b"\n"))

    async def rest(self):
        """Everything up to the end of the connection."""
        return await soon(self._reader.read())

    async def chunked_rest(self):
        """Everything up to the end of a chunked answer."""
        return await soon(self._reader.readuntil(b"\r\n0\r\n\r\n"))

    async def is_closed(self):
        """Wait for the end of the connection, with nothing before it."""
        return await self.rest() == b""

    def leave(self):
        self._writer.transport.abort()


CHAT = b'{"model":"m","messages":[{"role":"user","content":"How level is the sea?"}]}'


def post(body=CHAT, path=b"/v1/chat/completions", extra=b"", version=b"1.1"):
    """An inference request."""
    return b"POST %s HTTP/%s\r\nhost: door\r\n%scontent-length: %d\r\n\r\n%s" % (
        path, version, extra, len(body), body,
    )  # fmt: skip


def get(path=b"/health", extra=b""):
    return b"GET %s HTTP/1.1\r\nhost: door\r\n%s\r\n" % (path, extra)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
