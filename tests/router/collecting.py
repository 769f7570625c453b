"""An engine that is read, and what the collector publishes of it."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import orjson

from router.backends.backend import BackendGroup, Kind
from router.control_plane.collector import Collector
from router.control_plane.figures import Figures
from shm.board import EMPTY_CELL, Board
from shm.load import LoadReader
from tests.router.backends import entries
from tests.router.house import House
from tests.router.watched_engine import EPOCH, engines_of

URL = "http://a:1"
NOTHING = (0, 0)


class EndOfTest(Exception):
    """The loop is left."""


class Engine:
    """A SGLang server's `/v1/loads`."""

    def __init__(self):
        self.loads = {}
        self.status = 200
        self.asked = []
        self.limits = []
        self.at_question = lambda: None

    def holds(self, rank, tokens, running=1):
        self.loads[rank] = {
            "dp_rank": rank, "num_running_reqs": running, "num_waiting_reqs": 0,
            "num_used_tokens": tokens, "num_total_tokens": tokens, "max_total_num_tokens": 9999,
        }  # fmt: skip

    async def __call__(self, request):
        self.asked.append(request.url.path)
        self.limits.append(request.extensions["timeout"]["read"])
        self.at_question()
        return httpx.Response(self.status, content=orjson.dumps({"loads": [*self.loads.values()]}))


class Reading:
    """A collector over two ranks of an engine, and what it publishes."""

    def __init__(self, house, engine, collector):
        self.house = house
        self.engine = engine
        self.collector = collector
        self.slept = []
        self.board = Board.attach(house.instance.name, writable=True)
        self.loads = LoadReader.attach(house.instance.name)

    def book(self, dp_rank, tokens, requests=1, epoch=1):
        """A front door has that open there."""
        cell = EMPTY_CELL._replace(
            group_epoch=epoch, dispatched_tokens=tokens, dispatched_requests=requests,
            book_tokens=tokens, book_requests=requests,
        )  # fmt: skip
        self.board.write(0, dp_rank, cell)

    async def sleep(self, seconds):
        """The collector's: it ends with the third, and each is kept."""
        self.slept.append(seconds)
        if len(self.slept) == 3:
            raise EndOfTest
        await asyncio.sleep(0)

    async def read(self):
        """Read once; the reports by group."""
        await self.collector.read(EPOCH)
        return {report.dp_rank: report for report in self.loads.snapshot().reports}

    def figures(self):
        clock_ns = self.house.clock.ns
        figures = Figures(self.loads, self.board, clock_ns, self.collector.beyond)
        return figures.read(tuple(entries(self.house.instance.backends)))


def beyond(reports):
    """Tokens and requests that each is told to hold beyond the books."""
    return {
        rank: (report.holding_tokens, report.running_requests) for rank, report in reports.items()
    }


@asynccontextmanager
async def reading(*ranks, kind=Kind.SGLANG, **settings):
    groups = tuple(BackendGroup("a", 1, kind, rank) for rank in ranks)
    engine = Engine()
    client = httpx.AsyncClient(transport=httpx.MockTransport(engine))
    async with House.built(dp_size=len(groups), backends=groups, **settings) as house, client:
        board = Board.attach(house.instance.name)
        made = Reading(house, engine, None)
        made.collector = Collector(
            house.instance, board, house.loads, client, house.clock.ns, made.sleep
        )
        made.collector.follow(engines_of(house.instance))
        try:
            yield made
        finally:
            for segment in (board, made.board, made.loads):
                segment.close()
