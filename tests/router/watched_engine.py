"""A membership over an engine that is not ours, and that engine, in a test's hand."""

from contextlib import asynccontextmanager

import httpx

from router.backends.backend import BackendGroup, Kind
from router.control_plane.backend_health import BackendProbe
from router.control_plane.backend_membership import BackendMembership
from router.control_plane.backend_models import BackendModels
from router.control_plane.engines import Engines, told_of
from router.control_plane.table import Table
from shm.group_table import GroupTableReader
from tests.router.house import House

URL = "http://a:1"
EPOCH = 1
"""Of the instance, and so of its first engine."""


def engines_of(instance):
    """Those that it was started with, in slots from 0 on."""
    engines = Engines(instance.num_slots, instance.epoch, lambda: 10**18)
    for backend, groups in told_of(instance.backends).items():
        engines.begin(backend, groups)
    return engines


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
        self.models = BackendModels(self._client)
        made = BackendMembership(table, probe, self.models, clock_ns, found.groups if found else ())
        for each in (self.models, made):
            each.follow(engines_of(self.house.instance))
        return made

    async def probed(self, times=1, after_s=0.0):
        """The states after probes, and a look that much later."""
        for _ in range(times):
            await self.membership.probe(EPOCH)
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
