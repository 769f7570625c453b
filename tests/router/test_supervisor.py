import asyncio
import os
import signal
from pathlib import Path

import pytest

from router.child import Child
from router.errors import StartError
from router.instance import Instance
from router.options import parse_serve
from router.supervisor import Pauses, Supervisor, Unit
from shm.process import ProcessId, is_alive
from tests.router.fakes import soon, until

pytestmark = pytest.mark.anyio

HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


@pytest.fixture
async def supervisor(tmp_path):
    instance = Instance("unused", 1, str(tmp_path), "127.0.0.1", 1, 2)
    built = Supervisor(instance, parse_serve([], {}), tmp_path, Pauses(0.01, 0.05, 60.0))
    yield built
    await soon(built.stop())


class Sleepers:
    """A unit of sleepers, and what they have written."""

    def __init__(self, folder, *modes):
        self.path = folder / "ready"
        self.path.touch()
        self.modes = list(modes)
        self.failures = []
        self.unit = Unit("sleepers", self.start, grace_s=10.0)

    async def start(self):
        for mode in self.modes:
            if self.failures:
                raise self.failures.pop()
            arguments = ["tests.router.sleeper", mode, str(self.path)]
            yield await Child.start(mode, arguments, HERE)

    @property
    def pids(self):
        return [int(line.split()[0]) for line in self.path.read_text().splitlines()]

    async def have_started(self, number):
        await until(lambda: len(self.pids) >= number)


def are_gone(pids):
    return not any(is_alive(ProcessId(pid, 0)) for pid in pids)


async def test_a_process_that_ends_is_started_again(supervisor, tmp_path):
    """
    As often as it ends.
    """
    sleepers = Sleepers(tmp_path, "sleep")
    await supervisor.start(sleepers.unit)
    supervisor.keep(sleepers.unit)
    for life in (1, 2, 3):
        await sleepers.have_started(life)
        os.kill(sleepers.pids[-1], signal.SIGKILL)

    await sleepers.have_started(4)

    assert len(set(sleepers.pids)) == 4
    await supervisor.stop()
    await soon(sleepers.unit.stop())
    assert are_gone(sleepers.pids)


async def test_a_set_is_started_again_as_a_whole(supervisor, tmp_path):
    """
    The end of one ends the others first.
    """
    sleepers = Sleepers(tmp_path, "sleep", "sleep")
    await supervisor.start(sleepers.unit)
    supervisor.keep(sleepers.unit)
    await sleepers.have_started(2)
    first = sleepers.pids

    os.kill(first[1], signal.SIGKILL)

    await sleepers.have_started(4)
    assert are_gone(first)
    await supervisor.stop()
    await soon(sleepers.unit.stop())


async def test_a_process_that_keeps_ending_is_started_ever_more_slowly(
    supervisor, tmp_path, caplog
):
    """
    Each pause twice the last, up to the longest.
    """
    sleepers = Sleepers(tmp_path, "brief")
    await supervisor.start(sleepers.unit)
    supervisor.keep(sleepers.unit)

    await until(lambda: len(caplog.records) >= 5)

    pauses = [record.args[-1] for record in caplog.records[:5]]
    assert pauses == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert "brief" in caplog.records[0].message
    assert "exited with status 3" in caplog.records[0].message
    await supervisor.stop()
    await soon(sleepers.unit.stop())


async def test_a_start_that_fails_is_tried_again(supervisor, tmp_path, caplog):
    """
    What had started by then is stopped, and the unit is not given up.
    """
    sleepers = Sleepers(tmp_path, "sleep", "sleep")
    await supervisor.start(sleepers.unit)
    supervisor.keep(sleepers.unit)
    await sleepers.have_started(2)
    sleepers.failures = [OSError("no more processes")]

    os.kill(sleepers.pids[0], signal.SIGKILL)

    await sleepers.have_started(4)
    assert "the sleepers could not be started: no more processes" in caplog.messages
    await supervisor.stop()
    await soon(sleepers.unit.stop())


async def test_a_process_that_ends_before_it_is_ready_fails_the_start(supervisor, tmp_path):
    """
    With its name and its status, at once.
    """
    sleepers = Sleepers(tmp_path, "sleep", "brief")
    await supervisor.start(sleepers.unit)

    with pytest.raises(StartError, match="brief exited with status 3 before it was ready"):
        await soon(supervisor.started(sleepers.unit, asyncio.Event().wait()))

    await soon(sleepers.unit.stop())
    assert are_gone(sleepers.pids)


async def test_the_start_ends_when_the_unit_is_ready(supervisor, tmp_path):
    """
    Whatever ready means for it.
    """
    sleepers = Sleepers(tmp_path, "sleep")
    await supervisor.start(sleepers.unit)

    await soon(supervisor.started(sleepers.unit, sleepers.have_started(1)))

    await soon(sleepers.unit.stop())


async def test_what_had_started_before_a_failure_is_known(supervisor, tmp_path):
    """
    So that it can be stopped.
    """
    sleepers = Sleepers(tmp_path, "sleep", "sleep")

    async def fail_second():
        async for child in sleepers.start():
            yield child
            raise OSError("no more")

    unit = Unit("half", fail_second)
    with pytest.raises(OSError, match="no more"):
        await supervisor.start(unit)

    assert len(unit.children) == 1
    await soon(unit.stop())
    assert unit.children == []
