"""A membership with its surroundings, in a test's hand."""

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import asdict

import httpx
import orjson

from router.card import Card
from router.control_plane.figures import Figures
from router.control_plane.membership import Membership
from shm.board import Board
from shm.group_table import GroupState, GroupTableReader
from shm.load import LoadReader
from tests.router.fakes import until
from tests.router.house import House

READY = GroupState.READY
SECOND_NS = 1_000_000_000


class Health:
    """Answers `/health` by port; a port that is not in `answers` refuses, one of None is silent."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.failure = None
        """What a probe raises instead of asking."""

    async def __call__(self, request):
        if self.failure is not None:
            raise self.failure
        self.asked.append(request.url.port)
        if request.url.port not in self.answers:
            raise httpx.ConnectError("refused")
        status = self.answers[request.url.port]
        if status is None:
            await asyncio.Event().wait()
        return httpx.Response(status)


class Keeper:
    """A membership with its surroundings, at a time that is told to pass."""

    def __init__(self, house):
        self.house = house
        self.now_ns = 100 * SECOND_NS
        self.health = Health()
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.health))
        self.reader = GroupTableReader.attach(house.instance.name)
        self.loads = LoadReader.attach(house.instance.name)
        self.board = Board.attach(house.instance.name)
        self.made = []
        self.membership = self.another()

    def another(self, client=None):
        """A membership that begins with the table that is published now."""
        figures = Figures(self.loads, self.board, self.clock_ns)
        made = Membership(
            self.house.instance, self.house.table, client or self.client, figures, self.clock_ns,
            self.entries,
        )  # fmt: skip
        self.made.append(made)
        return made

    def clock_ns(self):
        return self.now_ns

    def leave_card(self, dp_rank, epoch=5, port=1000, pid=None, host="127.0.0.1", **fields):
        card = Card(dp_rank, epoch, host, port, pid or os.getpid(), "m", 2048, **fields)
        renamed = self.house.instance.card(dp_rank).with_suffix(".new")
        renamed.write_bytes(orjson.dumps(asdict(card)))
        renamed.replace(self.house.instance.card(dp_rank))

    def report(self, age_s, num_groups=2, epoch=5, **fields):
        """Each of the first groups has reported so long ago."""
        sampled_ns = self.now_ns - round(age_s * SECOND_NS)
        self.house.report(num_groups, epoch=epoch, sampled_ns=sampled_ns, **fields)

    async def is_asked(self, dp_rank):
        """A probe of a silent group has begun."""
        before = len(self.health.asked)
        probing = asyncio.create_task(self.membership.probe(dp_rank))
        await until(lambda: len(self.health.asked) > before)
        return probing

    def close(self):
        for closed in (*self.made, self.reader, self.loads, self.board):
            closed.close()

    async def keep_until(self, *states, membership=None):
        keeping = asyncio.create_task((membership or self.membership).keep())
        try:
            await until(lambda: self.published == list(states))
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    @property
    def entries(self):
        table = self.reader.snapshot()
        return table.groups if table else ()

    @property
    def published(self):
        return [entry.state for entry in self.entries]

    async def both_ready(self):
        """Two groups whose leaders are this very process."""
        self.leave_card(0)
        self.leave_card(1, port=1001)
        self.health.answers = {1000: 200, 1001: 200}
        await self.keep_until(READY, READY)

    @classmethod
    @asynccontextmanager
    async def built(cls, **settings):
        async with House.built(dp_size=2, **settings) as house:
            keeper = cls(house)
            try:
                yield keeper
            finally:
                await keeper.client.aclose()
                keeper.close()
