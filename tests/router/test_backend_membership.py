"""Groups of other people's engines: asked for their health, and never taken for dead too soon."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from router.backends.backend import BackendGroup, Kind
from router.control_plane.backend_health import BackendProbe
from router.control_plane.backend_membership import BackendMembership
from router.control_plane.backend_models import BackendModels
from router.control_plane.table import Table
from shm.group_table import GroupState, GroupTableReader
from tests.router.fakes import until
from tests.router.house import House

pytestmark = pytest.mark.anyio
STARTING, READY, SUSPECT, DRAINING, DEAD = map(
    GroupState, ("starting", "ready", "suspect", "draining", "dead")
)
URL = "http://a:1"


class Engine:
    """Answers probes with a status; None refuses, and `hangs` is no answer in time."""

    def __init__(self):
        self.status = 200
        self.hangs = False
        self.asked = []

    async def __call__(self, request):
        self.asked.append(request.url.path)
        if self.hangs:
            raise httpx.ReadTimeout("no answer")
        if self.status is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(self.status, json={"data": [{"id": "m"}, {"id": "lora"}]})


class Site:
    """A membership over one engine, at a time that is told to pass."""

    def __init__(self, house, engine, client):
        self.house, self.engine = house, engine
        self._client = client
        self._reader = GroupTableReader.attach(house.instance.name)
        self.membership = self.another()

    def another(self):
        """As the control plane's next life makes it."""
        found = self._reader.snapshot()
        table = Table(self.house.table, self.house.clock.ns, found.groups if found else ())
        probe, clock_ns = BackendProbe(self._client), self.house.clock.ns
        self.models = BackendModels(self.house.instance.backends, self._client)
        return BackendMembership(
            self.house.instance, table, probe, self.models, clock_ns, found.groups if found else ()
        )

    async def probed(self, times=1, after_s=0.0):
        """The states after probes, and a look that much later."""
        for _ in range(times):
            await self.membership.probe(URL)
        self.house.clock.now_s += after_s
        self.membership.look()
        return self.states

    @property
    def states(self):
        table = self._reader.snapshot()
        assert table.groups == self.membership.groups
        return [entry.state for entry in table.groups]

    def close(self):
        self._reader.close()


@asynccontextmanager
async def watching(*ranks, kind=Kind.VLLM):
    groups = tuple(BackendGroup("a", 1, kind, rank) for rank in ranks or (None,))
    engine = Engine()
    client = httpx.AsyncClient(transport=httpx.MockTransport(engine))
    async with House.built(dp_size=len(groups), backends=groups) as house, client:
        site = Site(house, engine, client)
        try:
            yield site
        finally:
            site.close()


async def test_ranks_of_one_engine_are_ready_by_one_answer():
    """
    At one address, each with its number there.
    """
    async with watching(0, 1) as site:
        assert await site.probed() == [READY, READY]

        assert site.engine.asked == ["/health"]
        rows = [(g.host, g.port, g.engine, g.engine_rank) for g in site.membership.groups]
        assert rows == [("a", 1, "vllm", 0), ("a", 1, "vllm", 1)]


@pytest.mark.parametrize(
    ("kind", "path", "well", "unwell"),
    [
        (Kind.LLAMACPP, "/health", 200, 503),
        (Kind.SGLANG, "/health", 200, 503),
        (Kind.LEVELHEAD, "/ready", 200, 503),
        (Kind.OPENAI, "/v1/models", 401, 500),
    ],
)
async def test_each_kind_is_asked_where_it_tells_its_health(kind, path, well, unwell):
    """
    Any OpenAI server has models, perhaps behind a key.
    """
    async with watching(kind=kind) as site:
        site.engine.status = unwell
        assert await site.probed() == [STARTING]
        site.engine.status = well
        assert await site.probed() == [READY]

        assert site.engine.asked == [path, path]


@pytest.mark.parametrize("status", [None, 500])
async def test_an_engine_that_refuses_twice_is_dead_until_it_answers_well(status):
    """
    In the same epoch: it has no counters that could be an earlier life's.
    """
    async with watching() as site:
        await site.probed()
        epoch = site.membership.groups[0].epoch
        site.engine.status = status

        assert await site.probed() == [READY]
        assert await site.probed() == [DEAD]
        site.engine.status = 200
        assert await site.probed() == [READY]
        assert site.membership.groups[0].epoch == epoch == site.house.instance.epoch


async def test_an_engine_that_is_silent_is_suspect_and_after_half_a_minute_dead():
    """
    It may be computing: what it has under way is not cut sooner.
    """
    async with watching() as site:
        await site.probed()
        site.engine.hangs = True

        assert await site.probed(after_s=1.9) == [READY]
        assert await site.probed(after_s=0.1) == [SUSPECT]
        assert await site.probed(3, after_s=27.9) == [SUSPECT]
        assert await site.probed(after_s=0.1) == [DEAD]


async def test_a_suspect_engine_that_answers_is_ready():
    """
    At once.
    """
    async with watching() as site:
        await site.probed()
        site.engine.hangs = True
        assert await site.probed(after_s=2.0) == [SUSPECT]
        site.engine.hangs = False

        assert await site.probed() == [READY]


async def test_a_drained_group_gets_nothing_more_and_its_engine_is_let_alone():
    """
    Though it answers well; the other rank goes on.
    """
    async with watching(0, 1) as site:
        await site.probed()

        assert site.membership.drain(0).state is DRAINING

        assert await site.probed() == [DRAINING, READY]


async def test_a_drained_engine_that_was_restarted_serves_again():
    """
    It has refused meanwhile: its requests have ended, and it was drained for that.
    """
    async with watching() as site:
        await site.probed()
        site.membership.drain(0)
        site.engine.status = None
        assert await site.probed(2) == [DEAD]
        site.engine.status = 200

        assert await site.probed() == [READY]


async def test_what_an_engine_serves_is_in_the_rows_of_all_its_ranks():
    """
    Adapters too; it stays there while the engine says nothing.
    """
    async with watching(0, 1) as site:
        await site.probed()
        assert [row.models for row in site.membership.groups] == [(), ()]

        await site.models.ask(URL)
        await site.probed()
        site.engine.status = None
        await site.models.ask(URL)
        await site.probed(2)

        assert [row.models for row in site.membership.groups] == [("m", "lora")] * 2


async def test_a_later_life_of_the_control_plane_knows_what_was_known():
    """
    Nobody is taken for starting again, and who drains goes on draining.
    """
    async with watching(0, 1) as site:
        await site.probed()
        site.membership.drain(1)

        site.membership = site.another()

        assert await site.probed() == [READY, DRAINING]


async def test_a_table_is_published_before_anybody_has_answered():
    """
    The front doors are started on it.
    """
    async with watching(0, 1) as site:
        site.engine.status = None
        keeping = asyncio.create_task(site.membership.keep())
        await until(lambda: site.engine.asked)

        assert site.states == [STARTING, STARTING]
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
