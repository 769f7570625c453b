"""A supervisor over sleepers, in a test's hand."""

from pathlib import Path

from router.child import Child
from router.instance import Instance
from router.options import parse_serve
from router.pauses import Pauses
from router.pulse import Answer, Patience
from router.question import Question
from router.supervisor import Supervisor
from router.unit import Unit
from shm.process import ProcessId, is_alive
from tests.router.fakes import soon, until

HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}
QUICK = Pauses(0.01, 0.05, 60.0)


class Board:
    """Notes which rows were reclaimed."""

    def __init__(self):
        self.reclaimed = []
        self.open_tokens = 0

    def reclaim(self, row):
        self.reclaimed.append(row)
        return self.open_tokens


class Clock:
    """A time that is told to pass."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def supervising(folder, reclaim, pauses=QUICK, ping_period_s=3600.0):
    instance = Instance("unused", 1, str(folder), "127.0.0.1", 1, 2, num_front_doors=3)
    return Supervisor(instance, parse_serve([], {}), folder, {}, reclaim, pauses, ping_period_s)


def asking(ask, **patience):
    return Question(ask, Patience(**patience))


async def never(pid):
    return Answer.NOT_YET


class Sleeper:
    """A unit of one sleeper, and what it has written, life after life."""

    def __init__(self, folder, mode="sleep", name="sleeper"):
        self.path = folder / name
        self.path.touch()
        self.mode = mode
        self.failures = []
        self.clock_s = Clock()
        self.lives_begun_when_reclaimed = []
        self.unit = Unit(name, self.spawn, asking(never), self.clock_s, 10.0, self.reclaim)

    def reclaim(self):
        self.lives_begun_when_reclaimed.append(len(self.pids))

    async def spawn(self):
        if self.failures:
            raise self.failures.pop(0)
        arguments = ["tests.router.sleeper", self.mode, str(self.path)]
        return await Child.start(self.unit.name, arguments, HERE)

    @property
    def pids(self):
        return [int(line.split()[0]) for line in self.path.read_text().splitlines()]

    async def has_started(self, number):
        await until(lambda: len(self.pids) >= number)

    async def kept_by(self, supervisor):
        await self.unit.start()
        supervisor.keep(self.unit)


def are_gone(pids):
    return not any(is_alive(ProcessId(pid, 0)) for pid in pids)


async def end(supervisor, *sleepers):
    await supervisor.stop()
    for sleeper in sleepers:
        await soon(sleeper.unit.stop())
        assert are_gone(sleeper.pids)
