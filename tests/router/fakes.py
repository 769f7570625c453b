"""What a front door talks to: clients and DP groups over real sockets, in a test's hand."""

import asyncio
import itertools
import os
import socket
import struct
import tempfile
from concurrent.futures import Executor, Future
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

import httptools
import orjson
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from router.front_door.dispatcher import Segments
from router.front_door.server import FrontDoor, listening_socket
from router.instance import Instance
from router.shared_memory import SharedMemory
from shm.board import Board
from shm.group_table import GroupEntry, GroupState, GroupTableReader, GroupTableWriter
from shm.load import Accepted, LoadReader, LoadReport, LoadWriter

LIMIT_S = 10.0  # of any wait; reached only when a test fails
_numbers = itertools.count()


def unique_instance():
    """A name that no other test and no other run has."""
    return f"test{os.getpid()}.{next(_numbers)}"


async def until(condition, limit_s=LIMIT_S):
    """Wait until the condition holds; fail after limit_s."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110  any state of any object may be waited for
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError("the condition did not come to hold") from None


async def soon(awaitable, limit_s=LIMIT_S):
    """The awaitable's result; fail after limit_s."""
    async with asyncio.timeout(limit_s):
        return await awaitable


async def turns(number=20):
    """Let whatever is ready to run have its turns: for showing that nothing happens."""
    for _ in range(number):
        await asyncio.sleep(0.001)


# Groups


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
    async def listening(cls, respond=None, path=None):
        """A group on a free port, or on a Unix socket."""
        group, loop = cls(respond), asyncio.get_running_loop()
        if path is None:
            group._server = await loop.create_server(
                lambda: _GroupConnection(group), "127.0.0.1", 0
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

    async def next_request(self):
        return await soon(self._waiting.get())

    @property
    def has_request(self):
        """Whether next_request returns at once."""
        return not self._waiting.empty()


# Clients


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


# Tokenizers


def write_tokenizer(folder, template="{% for m in messages %}{{ m.content }} {% endfor %}go"):
    """A tokenizer that makes one token of each word, in the form that groups leave it."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = {"chat_template": template, "bos_token": "<s>", "eos_token": None}
    (folder / "chat.json").write_bytes(orjson.dumps(chat))
    return str(folder)


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


class HeldExecutor(Executor):
    """Keeps what is submitted until the test runs it."""

    def __init__(self):
        self.held = []

    def submit(self, call, /, *arguments, **keywords):
        future = Future()
        self.held.append((future, call, arguments, keywords))
        return future

    def run_all(self):
        held, self.held = self.held, []
        for future, call, arguments, keywords in held:
            if future.set_running_or_notify_cancel():
                future.set_result(call(*arguments, **keywords))


# The house around a door


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    def ns(self):
        """The same, as the groups' samples have it."""
        return round(self.now_s * 1e9)


class House:
    """The segments of an instance, written by the test in place of control plane and TP0."""

    def __init__(self, instance):
        self.instance = instance
        self.clock = Clock()
        """Of doors and groups."""
        self.table = GroupTableWriter.attach(instance.name)
        self.loads = LoadWriter.attach(instance.name, instance.dp_size, instance.num_front_doors)
        self._published = 0

    @classmethod
    @asynccontextmanager
    async def built(cls, dp_size=1, **settings):
        with tempfile.TemporaryDirectory(prefix="lh-") as folder:
            name = unique_instance()
            settings = {"num_front_doors": 1, "seed": 7} | settings
            host = settings.pop("host", "127.0.0.1")
            instance = Instance(name, 1, folder, host, 0, dp_size, **settings)
            with SharedMemory.create(name, 1, dp_size, instance.num_front_doors):
                house = cls(instance)
                try:
                    yield house
                finally:
                    house.table.close()
                    house.loads.close()

    def present(self, *groups, epoch=11, **fields):
        """Publish the table: every group ready, at the ports of these fakes."""
        entries = [
            GroupEntry(rank, GroupState.READY, epoch, "127.0.0.1", group.port, "m", 2048, **fields)
            for rank, group in enumerate(groups)
        ]
        self.publish_table(*entries)

    def publish_table(self, *entries):
        self._published += 1
        self.table.publish(entries, self._published)

    def report(self, num_groups=1, accepted=None, **fields):
        """Publish the same report of each of the first groups, sampled now."""
        fields.setdefault("sampled_ns", self.clock.ns())
        accepted = accepted or ((0, 0, 0),) * self.instance.num_front_doors
        ranks = range(num_groups)
        self.loads.publish([load_report(rank, accepted=accepted, **fields) for rank in ranks], 1)

    def report_holding(self, *tokens):
        """Publish a report of each group, sampled now, so that the one with fewer is chosen."""
        accepted = ((0, 0, 0),) * self.instance.num_front_doors
        now_ns = self.clock.ns()
        self.loads.publish(
            [
                load_report(rank, accepted=accepted, holding_tokens=held, sampled_ns=now_ns)
                for rank, held in enumerate(tokens)
            ],
            now_ns,
        )

    def segments(self):
        name = self.instance.name
        return Segments(
            GroupTableReader.attach(name),
            LoadReader.attach(name),
            Board.attach(name, writable=True),
        )

    @asynccontextmanager
    async def door(self, slot=0, executor=None):
        """A front door that runs in this event loop."""
        segments, loop = self.segments(), asyncio.get_running_loop()
        unhandled = []
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        door = FrontDoor(self.instance, slot, segments, loop, self.clock, self.clock.ns, executor)
        bound = listening_socket("127.0.0.1", 0, shared=False)
        opened = OpenDoor(door, bound.getsockname()[1], self.clock, segments.board)
        opened.running = asyncio.create_task(door.run(bound))
        try:
            await until(lambda: _accepts(opened.port))
            yield opened
            opened.check_books()
        finally:
            door.stop()
            await soon(opened.running)
            await turns(5)
            segments.close()
            loop.set_exception_handler(None)
        assert unhandled == []


def charge_of(received):
    """Tokens that a request charges its group with."""
    return int(received.header(b"x-levelhead-charge-tokens")[0])


def _accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class OpenDoor:
    """A running front door, its port, and what to look at in it."""

    def __init__(self, door, port, clock, board):
        self.door = door
        self.port = port
        self.clock = clock
        self.board = board
        self.running = None

    def client(self, **settings):
        return Client.connected(self.port, **settings)

    @property
    def meters(self):
        return self.door.meters

    @property
    def controller(self):
        return self.door.dispatcher.controller

    @property
    def num_assigned(self):
        return sum(book.requests for book in self.controller.books())

    def cell(self, dp_rank=0, slot=0):
        """What the door has noted of a group on the in-flight board."""
        return self.board.read(slot, dp_rank)

    async def all_released(self):
        """Wait until no assignment is open, and check the books."""
        await until(lambda: self.num_assigned == 0)
        await until(lambda: self.meters.open_requests == 0)
        self.check_books()

    def check_books(self):
        self.controller.check_integrity()


def load_report(dp_rank=0, epoch=11, accepted=((0, 0, 0),), **fields):
    """A report; what is not given is zero."""
    values = dict.fromkeys(LoadReport._fields, 0)
    values |= {
        "max_requests": 100,
        "kv_capacity_tokens": 4096,
        "dp_rank": dp_rank,
        "group_epoch": epoch,
    } | fields
    values["accepted"] = tuple(Accepted(*slot) for slot in accepted)
    return LoadReport(**values)
