"""A leader's HTTP app with a fake model, all on one event loop and in one thread."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import orjson

from tests.workers.fakes import SlotRunner, StepClock
from workers.engine.acceptance import AcceptedCounters, ChargeDesk
from workers.engine.engine import Engine, Ports
from workers.engine.inbox import Inbox
from workers.engine.meter import GroupId, LoadMeter
from workers.engine.occupation import Occupation
from workers.engine.pages import PagePool
from workers.engine.scheduler import Limits, Scheduler
from workers.server.app import Service, build_app
from workers.server.client import EngineClient
from workers.server.drain import Drain
from workers.server.intake import Intake, ServedModel
from workers.server.occupation import OccupationDesk, Surroundings

MAX_MODEL_LEN = 200
NUM_FRONT_DOORS = 2
MAX_REQUEST_BYTES = 65_536
EPOCH = 31
DP_RANK = 3


class Rig:
    """The app, and the engine whose rounds are run by `serving` or by the test."""

    def __init__(
        self,
        codec,
        max_queued=8,
        max_running=1,
        cache=None,
        runner=None,
        instance_key=None,
        memory="there is none",
        clock=None,
        barrier=None,
    ):
        self.announced, self.pauses = [], 0
        self.reports, self.fatal = [], []
        self.runner = runner or SlotRunner(page_size=4)
        self.inbox = Inbox()
        client = EngineClient(self.inbox, asyncio.get_running_loop())
        self.scheduler = Scheduler(Limits(max_running, max_queued, 64), PagePool(64, 4), cache)
        self.engine = Engine(
            self.inbox,
            self.scheduler,
            self.runner,
            AcceptedCounters(NUM_FRONT_DOORS),
            LoadMeter(GroupId(0, EPOCH), StepClock()),
            Ports(client.deliver, self.reports.append, self.fatal.append),
            heartbeat_s=60.0,
        )
        model = ServedModel("tiny", MAX_MODEL_LEN, DP_RANK, max_running + max_queued)
        intake = Intake(model, codec, client.next_id, lambda request_id: request_id)
        is_ready = lambda: not self.inbox.is_closed  # noqa: E731
        desk = ChargeDesk(client.settle, StepClock())
        self.drain = Drain(30.0, StepClock())
        limits = (NUM_FRONT_DOORS, MAX_REQUEST_BYTES)
        around = Surroundings(self.announced.append, 30.0, clock or StepClock(), self._pause)
        desk_of_memory = OccupationDesk(Occupation(self.scheduler, memory), client, around)
        self.app = build_app(
            Service(
                intake,
                client,
                desk,
                self.drain,
                EPOCH,
                *limits,
                is_ready,
                lambda: self.scheduler.totals,
                instance_key,
                occupation=desk_of_memory,
                barrier=barrier,
            )
        )

    async def _pause(self, seconds):
        self.pauses += 1
        await asyncio.sleep(0)

    @property
    def accepted(self):
        """What the next report says was accepted."""
        self.engine.step(0.0)
        return self.reports[-1].accepted

    @property
    def holding_tokens(self):
        """What the next report says is held."""
        self.engine.step(0.0)
        return self.reports[-1].holding_tokens


@asynccontextmanager
async def serving(codec, **options):
    """A rig whose engine runs whenever nobody else does, and an HTTP client for it."""
    rig = Rig(codec, **options)

    async def pump():
        while True:
            rig.engine.step(0.0)
            await asyncio.sleep(0)

    pumping = asyncio.create_task(pump())
    transport = httpx.ASGITransport(rig.app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://leader") as client:
            yield rig, client
    finally:
        pumping.cancel()


class Connection:
    """One request over raw ASGI, whose client can hang up."""

    def __init__(self, app, path, body, headers=()):
        self.sent = []
        self._inbound = asyncio.Queue()
        self._inbound.put_nowait({"type": "http.request", "body": body})
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
        self.task = asyncio.create_task(app(scope, self._inbound.get, self._send))

    async def _send(self, message):
        self.sent.append(message)

    def hang_up(self):
        """Close the connection from the client's side."""
        self._inbound.put_nowait({"type": "http.disconnect"})

    def hang_up_first(self):
        """Close the connection before the body was sent."""
        self._inbound.get_nowait()
        self.hang_up()

    async def settle_down(self):
        """Let the app's tasks run until they wait for somebody else."""
        for _ in range(50):
            await asyncio.sleep(0)


def post(codec, path, body, **options):
    """The response to one POST, and the rig behind it."""

    async def run():
        async with serving(codec, **options) as (_, client):
            content = body if isinstance(body, bytes) else orjson.dumps(body)
            return await client.post(path, content=content)

    return asyncio.run(run())


def events(response):
    """The data of a stream's events, checked to be framed as they must be."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    assert frames[-1] == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]
