"""The start of all processes, and their end in order."""

import asyncio

import pytest

from router.errors import StartError
from router.pauses import Life
from tests.router.fakes import soon, turns, until
from tests.router.sleepers import Sleeper, end

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


async def test_a_process_that_ends_before_all_are_ready_fails_the_start(supervisor, tmp_path):
    """
    With its name and its status, at once.
    """
    sleepers = [Sleeper(tmp_path), Sleeper(tmp_path, "brief", "brief")]
    units = [sleeper.unit for sleeper in sleepers]
    for unit in units:
        await unit.start()

    with pytest.raises(StartError, match="brief exited with status 3 before it was ready"):
        await soon(supervisor.started(units, asyncio.Event().wait()))

    await end(supervisor, *sleepers)


async def test_the_start_ends_when_all_are_ready(supervisor, tmp_path):
    """
    Whatever ready means for them; their steady lives begin there.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.unit.start()

    await soon(supervisor.started([sleeper.unit], sleeper.has_started(1)))

    sleeper.unit.child.kill()
    assert await soon(sleeper.unit.life()) == Life(-9, 0.0)
    await end(supervisor, sleeper)


async def test_a_failure_of_what_is_waited_for_fails_the_start(supervisor, tmp_path):
    """
    As it was raised.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.unit.start()

    async def fail():
        raise StartError("no table")

    with pytest.raises(StartError, match="no table"):
        await soon(supervisor.started([sleeper.unit], fail()))

    await end(supervisor, sleeper)


class Stopping:
    """A child that notes when it is asked to stop, and ends when it is let."""

    returncode = None
    pid = 0

    def __init__(self, name, told):
        self.name = name
        self.told = told
        self.may_end = asyncio.Event()

    async def stop(self, grace_s):
        self.told.append((self.name, grace_s))
        await self.may_end.wait()

    def kill(self):
        self.told.append(("killed", self.name))
        self.may_end.set()


def with_children(supervisor, told):
    units = (*supervisor.front_doors, *supervisor.ranks, supervisor.control_plane)
    for unit in units:
        unit.child = Stopping(unit.name, told)
    return [unit.child for unit in units]


async def test_clients_are_stopped_first_then_groups_then_who_watches_them(supervisor):
    """
    Those of a kind together: their waits do not add up.
    """
    told = []
    *children, control_plane = with_children(supervisor, told)
    doors, ranks = children[:3], children[3:]

    stopping = asyncio.create_task(supervisor.stop())
    await until(lambda: len(told) == 3)
    await turns()
    assert {name for name, _ in told} == {"front door 0", "front door 1", "front door 2"}
    for door in doors:
        door.may_end.set()
    await until(lambda: len(told) == 5)
    await turns()
    assert told[3:] == [("rank 0", 45.0), ("rank 1", 45.0)]
    for rank in ranks:
        rank.may_end.set()
    await until(lambda: len(told) == 6)
    assert told[5] == ("control plane", 15.0)
    control_plane.may_end.set()
    await soon(stopping)


async def test_whoever_is_told_twice_ends_at_once(supervisor):
    """
    Nobody is left out.
    """
    told = []
    children = with_children(supervisor, told)
    stopping = asyncio.create_task(supervisor.stop())
    await until(lambda: len(told) == 3)

    supervisor.kill()

    await soon(stopping)
    assert {name for kind, name in told if kind == "killed"} == {each.name for each in children}


async def test_a_first_start_for_which_there_is_no_process_fails(tmp_path):
    """
    By name.
    """
    sleeper = Sleeper(tmp_path)
    sleeper.failures = [OSError("no more processes")]

    with pytest.raises(StartError, match="sleeper could not be started: no more processes"):
        await sleeper.unit.start()
