"""The house around a front door: segments, time, and the door itself."""

import asyncio
import socket
import tempfile
from contextlib import asynccontextmanager

from router.front_door.dispatcher import Segments
from router.front_door.listening import listening_socket
from router.front_door.server import FrontDoor
from router.instance import Instance
from router.shared_memory import SharedMemory
from shm.board import Board
from shm.group_table import GroupEntry, GroupState, GroupTableReader, GroupTableWriter
from shm.load import Accepted, LoadReader, LoadReport, LoadWriter
from tests.router.clients import Client
from tests.router.fakes import soon, turns, unique_instance, until


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
        self.loads = LoadWriter.attach(instance.name, instance.num_slots, instance.num_front_doors)
        self._published = 0

    @classmethod
    @asynccontextmanager
    async def built(cls, dp_size=1, **settings):
        with tempfile.TemporaryDirectory(prefix="lh-") as folder:
            name = unique_instance()
            settings = {"num_front_doors": 1, "seed": 7, "method": "minimum_tokens"} | settings
            host = settings.pop("host", "127.0.0.1")
            instance = Instance(name, 1, folder, host, 0, dp_size, **settings)
            with SharedMemory.create(name, 1, instance.num_slots, instance.num_front_doors):
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
    async def door(self, slot=0, executor=None, sink=None):
        """A front door that runs in this event loop."""
        segments, loop = self.segments(), asyncio.get_running_loop()
        unhandled = []
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        clocks = (self.clock, self.clock.ns)
        door = FrontDoor(self.instance, slot, segments, loop, *clocks, executor, sink)
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
    values["accepted"] = tuple(Accepted(*slot, 0, 0) for slot in accepted)
    return LoadReport(**values)
