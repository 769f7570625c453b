"""An enrolment with all its surroundings, engines that come up and go, and a source in hand."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from router.backends.backend import BackendGroup, Kind, parse_backend
from router.control_plane.app import ControlPlane, build_app
from router.control_plane.enrolled import Enrolled
from router.control_plane.figures import Figures
from router.control_plane.tokenizing import Tokenizing
from router.control_plane.totals import TotalsReader
from shm.board import EMPTY_CELL, Board
from shm.group_table import GroupTableReader
from shm.load import LoadReader, LoadWriter
from tests.router.fakes import until
from tests.router.house import House


class Engines:
    """Servers by host: what each lists; one that is not there refuses."""

    def __init__(self):
        self.up = {}
        self.asked = []

    async def __call__(self, request):
        self.asked.append(f"{request.url.host}{request.url.path}")
        if request.url.host not in self.up:
            raise httpx.ConnectError("refused")
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": self.up[request.url.host]}]})
        return httpx.Response(200 if request.url.path == "/health" else 404)


class Source:
    """Tells what the test has it tell."""

    name = "--source"

    def __init__(self):
        self.tell = None

    async def keep(self, tell):
        self.tell = tell
        await asyncio.Event().wait()

    def tells(self, *told):
        self.tell([parse_backend(each) for each in told])


class Killed(BaseException):
    """Stands for SIGKILL: nobody handles it, and nothing that would follow happens."""


class Table:
    """The group table's writer; dies before it publishes if the test says so."""

    def __init__(self, writer):
        self._writer = writer
        self.is_deadly = False

    def publish(self, groups, published_ns):
        if self.is_deadly:
            raise Killed
        self._writer.publish(groups, published_ns)


class Hotel:
    """One life of the control plane after the other."""

    def __init__(self, house, client, engines):
        self.house = house
        self.engines = engines
        self._client = client
        self.board = Board.attach(house.instance.name, writable=True)
        self.loads = LoadReader.attach(house.instance.name)
        self._reader = GroupTableReader.attach(house.instance.name)
        self.source = Source()
        self.table = Table(house.table)
        self.learnt = []
        """Each backend, and how many questions had been asked when it was learnt of."""
        self._keeping = None
        self.enrolled = None

    def open(self):
        """Begin a life: the first, or the next after a kill."""
        self.table.is_deadly = False
        instance, found = self.house.instance, self._reader.snapshot()
        writer = LoadWriter.attach(instance.name, instance.num_slots, instance.num_front_doors)
        self.enrolled = Enrolled(
            instance,
            (self.table, self.board, writer),
            (self._client, self._client),
            found.groups if found else (),
            [self.source],
            self.house.clock.ns,
            lambda backends: self.learnt.extend(
                (each.url, len(self.engines.asked)) for each in backends
            ),
        )
        figures = Figures(
            self.loads, self.board, self.house.clock.ns, self.enrolled.collector.beyond
        )
        app = build_app(
            ControlPlane(
                instance, self.enrolled.membership, figures, Tokenizing(self._client),
                TotalsReader(self._client), self.enrolled,
            )
        )  # fmt: skip
        transport = httpx.ASGITransport(app)
        self.operator = httpx.AsyncClient(transport=transport, base_url="http://control")

    async def run(self):
        """Let it do what it does; the source has been asked."""
        self.source.tell = None
        self._keeping = asyncio.create_task(self.enrolled.keep())
        await until(lambda: self.source.tell is not None)

    async def kill(self):
        """End the life, wherever it is; nothing is saved or published by that."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        await self.operator.aclose()
        self.enrolled.close()

    @property
    def has_ended(self):
        """Whether the life has ended by itself."""
        return self._keeping.done()

    @property
    def rows(self):
        """The table: slot, host, state."""
        table = self._reader.snapshot()
        return [(row.dp_rank, row.host, row.state.value) for row in table.groups]

    @property
    def entries(self):
        return self._reader.snapshot().groups

    async def shows(self, *rows):
        try:
            await until(lambda: self.rows == list(rows))
        except AssertionError:
            raise AssertionError(f"the table shows {self.rows}") from None

    def has_open(self, dp_rank, num_requests):
        """A front door has so many requests open on whoever has that slot."""
        epoch = next(row.epoch for row in self.entries if row.dp_rank == dp_rank)
        sent = EMPTY_CELL._replace(
            front_door_epoch=3, group_epoch=epoch, dispatched_tokens=9, dispatched_requests=5,
            returned_tokens=9 - num_requests, returned_requests=5 - num_requests,
            book_tokens=num_requests, book_requests=num_requests,
        )  # fmt: skip
        self.board.write(0, dp_rank, sent)

    @property
    def saved(self):
        """The file that outlives the control plane."""
        return Path(self.house.instance.run_dir) / "enrolment.json"

    @property
    def num_tasks(self):
        return len(asyncio.all_tasks())

    async def close(self):
        await self.kill()
        for segment in (self.board, self.loads, self._reader):
            segment.close()


@asynccontextmanager
async def hotel(*hosts, max_groups=4, **settings):
    """Started with llama.cpp servers at these hosts."""
    groups = tuple(BackendGroup(host, 1, Kind.LLAMACPP) for host in hosts)
    engines = Engines()
    engines.up = dict.fromkeys(hosts, "m")
    client = httpx.AsyncClient(transport=httpx.MockTransport(engines))
    settings |= {"backends": groups, "max_groups": max_groups, "backends_file": "some"}
    async with House.built(dp_size=len(groups), **settings) as house, client:
        made = Hotel(house, client, engines)
        made.open()
        try:
            yield made
        finally:
            await made.close()
