import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from router.child import Child
from router.errors import StartError
from router.instance import Instance
from router.options import parse_serve
from router.ping import Answer, Question
from router.supervisor import Pauses, Supervisor, Unit
from shm.process import ProcessId, is_alive
from tests.router.fakes import soon, turns, until

pytestmark = pytest.mark.anyio

HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}
QUICK = Pauses(0.01, 0.05, 60.0)


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


class Board:
    """Notes which rows were reclaimed."""

    def __init__(self):
        self.reclaimed = []
        self.open_tokens = 0

    def reclaim(self, row):
        self.reclaimed.append(row)
        return self.open_tokens


@pytest.fixture
def board():
    return Board()


def supervising(folder, reclaim, pauses=QUICK, ping_period_s=3600.0):
    instance = Instance("unused", 1, str(folder), "127.0.0.1", 1, 2, num_front_doors=3)
    return Supervisor(instance, parse_serve([], {}), folder, reclaim, pauses, ping_period_s)


@pytest.fixture
async def supervisor(tmp_path, board):
    built = supervising(tmp_path, board.reclaim)
    yield built
    await soon(built.stop())


async def never(pid):
    return Answer.NOT_YET


class Sleeper:
    """A unit of one sleeper, and what it has written, life after life."""

    def __init__(self, folder, mode="sleep", name="sleeper"):
        self.path = folder / name
        self.path.touch()
        self.mode = mode
        self.failures = []
        self.lives_begun_when_reclaimed = []
        self.unit = Unit(
            name, self.start, Question(never, None), 10.0,
            lambda: self.lives_begun_when_reclaimed.append(len(self.pids)),
        )  # fmt: skip

    async def start(self):
        if self.failures:
            raise self.failures.pop()
        arguments = ["tests.router.sleeper", self.mode, str(self.path)]
        return await Child.start(self.unit.name, arguments, HERE)

    @property
    def pids(self):
        return [int(line.split()[0]) for line in self.path.read_text().splitlines()]

    async def has_started(self, number):
        await until(lambda: len(self.pids) >= number)

    async def kept_by(self, supervisor):
        await supervisor.start(self.unit)
        supervisor.keep(self.unit)


def are_gone(pids):
    return not any(is_alive(ProcessId(pid, 0)) for pid in pids)


async def end(supervisor, *sleepers):
    await supervisor.stop()
    for sleeper in sleepers:
        await soon(sleeper.unit.stop())
        assert are_gone(sleeper.pids)


# Lives of one process


async def test_a_process_that_ends_is_started_again(supervisor, tmp_path):
    """
    As often as it ends.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.kept_by(supervisor)
    for life in (1, 2, 3):
        await sleeper.has_started(life)
        os.kill(sleeper.pids[-1], signal.SIGKILL)

    await sleeper.has_started(4)

    assert len(set(sleeper.pids)) == 4
    await end(supervisor, sleeper)


async def test_nobody_else_is_started_again(supervisor, tmp_path):
    """
    The other ranks go on as they are.
    """
    lost, other = Sleeper(tmp_path, name="lost"), Sleeper(tmp_path, name="other")
    for sleeper in (lost, other):
        await sleeper.kept_by(supervisor)
        await sleeper.has_started(1)

    os.kill(lost.pids[0], signal.SIGKILL)

    await lost.has_started(2)
    await turns()
    assert len(other.pids) == 1
    assert not are_gone(other.pids)
    await end(supervisor, lost, other)


def test_ranks_and_front_doors_are_units_of_their_own(tmp_path, board):
    """
    One for each, in order; each may take as long to end as its requests may.
    """
    supervisor = supervising(tmp_path, board.reclaim)
    assert [unit.name for unit in supervisor.ranks] == ["rank 0", "rank 1"]
    doors = [unit.name for unit in supervisor.front_doors]
    assert doors == ["front door 0", "front door 1", "front door 2"]
    assert {unit.grace_s for unit in (*supervisor.ranks, *supervisor.front_doors)} == {40.0}


async def test_what_is_between_two_lives_is_done_after_the_one_and_before_the_other(
    supervisor, tmp_path
):
    """
    Once for each life that ended.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.kept_by(supervisor)
    await sleeper.has_started(1)
    assert sleeper.lives_begun_when_reclaimed == []

    os.kill(sleeper.pids[0], signal.SIGKILL)
    await sleeper.has_started(2)
    os.kill(sleeper.pids[1], signal.SIGKILL)
    await sleeper.has_started(3)

    assert sleeper.lives_begun_when_reclaimed == [1, 2]
    await end(supervisor, sleeper)


def test_a_front_door_that_has_ended_is_taken_off_the_board(tmp_path, board, caplog):
    """
    Its own row, with a word if requests ended with it.
    """
    supervisor = supervising(tmp_path, board.reclaim)
    supervisor.front_doors[2].between_lives()
    assert (board.reclaimed, caplog.messages) == ([2], [])
    board.open_tokens = 70

    supervisor.front_doors[0].between_lives()

    assert board.reclaimed == [2, 0]
    assert caplog.messages == ["requests of 70 tokens ended with front door 0"]


def test_a_rank_that_has_ended_has_no_row(tmp_path, board):
    """
    Its charges end with its epoch.
    """
    supervisor = supervising(tmp_path, board.reclaim)
    for unit in (*supervisor.ranks, supervisor.control_plane):
        unit.between_lives()

    assert board.reclaimed == []


# How soon


@pytest.mark.parametrize(
    ("pause_s", "lived_s", "returncode", "expected_s"),
    [
        (0.0, 0.0, 1, 0.5),
        (0.5, 0.0, -9, 1.0),
        (20.0, 0.0, 2, 30.0),
        (30.0, 10.0, 1, 30.0),
        (30.0, 10.1, 1, 0.5),
        (0.0, 0.0, 0, 0.0),
        (30.0, 0.0, 0, 0.0),
    ],
)
def test_the_pause_before_the_next_life(pause_s, lived_s, returncode, expected_s):
    """
    Doubles up to the longest, and begins anew after a steady life or an end that was asked for.
    """
    assert Pauses().after(pause_s, lived_s, returncode) == expected_s


async def test_a_process_that_keeps_failing_is_started_ever_more_slowly(
    supervisor, tmp_path, caplog
):
    """
    Each pause twice the last, up to the longest.
    """
    sleeper = Sleeper(tmp_path, "brief")
    await sleeper.kept_by(supervisor)

    await until(lambda: len(caplog.records) >= 5)

    assert [record.args[-1] for record in caplog.records[:5]] == [0.01, 0.02, 0.04, 0.05, 0.05]
    pid = sleeper.pids[0]
    assert caplog.messages[0] == (
        f"sleeper (pid {pid}) exited with status 3; it is started again in 0.0 s"
    )
    await end(supervisor, sleeper)


async def test_a_process_that_ended_as_it_was_asked_to_is_started_again_at_once(
    tmp_path, board, caplog
):
    """
    That is no error: a group that has drained ends so.
    """
    caplog.set_level(logging.INFO, "levelhead.serve")
    supervisor = supervising(tmp_path, board.reclaim, Pauses(first_s=3600.0))
    sleeper = Sleeper(tmp_path, "drained")
    await sleeper.kept_by(supervisor)
    await sleeper.has_started(1)

    os.kill(sleeper.pids[0], signal.SIGTERM)

    await sleeper.has_started(2)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.message.endswith("exited with status 0; it is started again")
    await end(supervisor, sleeper)


async def test_a_start_that_fails_is_tried_again(supervisor, tmp_path, caplog):
    """
    The unit is not given up.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.kept_by(supervisor)
    await sleeper.has_started(1)
    sleeper.failures = [OSError("no more processes"), OSError("no more processes")]

    os.kill(sleeper.pids[0], signal.SIGKILL)

    await sleeper.has_started(2)
    assert caplog.messages[1:] == ["sleeper could not be started: no more processes"] * 2
    await end(supervisor, sleeper)


# Start and stop


async def test_a_process_that_ends_before_all_are_ready_fails_the_start(supervisor, tmp_path):
    """
    With its name and its status, at once.
    """
    sleepers = [Sleeper(tmp_path), Sleeper(tmp_path, "brief", "brief")]
    units = [sleeper.unit for sleeper in sleepers]
    for unit in units:
        await supervisor.start(unit)

    with pytest.raises(StartError, match="brief exited with status 3 before it was ready"):
        await soon(supervisor.started(units, asyncio.Event().wait()))

    await end(supervisor, *sleepers)


async def test_the_start_ends_when_all_are_ready(supervisor, tmp_path):
    """
    Whatever ready means for them.
    """
    sleeper = Sleeper(tmp_path)
    await supervisor.start(sleeper.unit)

    await soon(supervisor.started([sleeper.unit], sleeper.has_started(1)))

    await end(supervisor, sleeper)


async def test_a_failure_of_what_is_waited_for_fails_the_start(supervisor, tmp_path):
    """
    As it was raised.
    """
    sleeper = Sleeper(tmp_path)
    await supervisor.start(sleeper.unit)

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
    assert told[3:] == [("rank 0", 40.0), ("rank 1", 40.0)]
    for rank in ranks:
        rank.may_end.set()
    await until(lambda: len(told) == 6)
    assert told[5] == ("control plane", 10.0)
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


# What does not answer


async def test_a_process_that_does_not_answer_is_started_again(tmp_path, board):
    """
    It is there, but not alive.
    """
    sleeper = Sleeper(tmp_path)

    async def silent(pid):
        return Answer.MISSED if pid == sleeper.pids[0] else Answer.GIVEN

    sleeper.unit.question = Question(silent, None)
    supervisor = supervising(tmp_path, board.reclaim, ping_period_s=0.001)
    await supervisor.start(sleeper.unit)
    await sleeper.has_started(1)
    supervisor.keep(sleeper.unit)

    await sleeper.has_started(2)

    assert are_gone(sleeper.pids[:1])
    await end(supervisor, sleeper)
