"""How soon a process is started again, and what is done for it."""

import asyncio
import logging
import os
import signal
from subprocess import SubprocessError

import pytest

from router.errors import SupervisionLost
from router.pauses import Life, Pauses
from router.pulse import Answer
from tests.router.fakes import soon, turns, until
from tests.router.sleepers import Sleeper, are_gone, asking, end, supervising

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


# How soon


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
    sleeper.unit.answered()

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
    sleeper.failures = [OSError("no more processes"), SubprocessError("no more processes")]

    os.kill(sleeper.pids[0], signal.SIGKILL)

    await sleeper.has_started(2)
    assert caplog.messages[1:] == ["sleeper could not be started: no more processes"] * 2
    await end(supervisor, sleeper)


async def test_a_process_that_says_it_was_asked_to_end_and_never_was_ready_is_slowed(
    supervisor, tmp_path, caplog
):
    """
    It would else be started without a pause for ever.
    """
    sleeper = Sleeper(tmp_path, "drained")
    await sleeper.kept_by(supervisor)
    for life in (1, 2, 3):
        await sleeper.has_started(life)
        os.kill(sleeper.pids[-1], signal.SIGTERM)
    await sleeper.has_started(4)

    assert [record.args[-1] for record in caplog.records] == [0.01, 0.02, 0.04]
    await end(supervisor, sleeper)


async def test_loading_is_no_steady_life(supervisor, tmp_path, caplog):
    """
    Steadiness counts from the first good answer.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.kept_by(supervisor)
    for life, (loading_s, serving_s) in enumerate(((99, 1), (99, 60), (99, 61)), 1):
        await sleeper.has_started(life)
        sleeper.clock_s.now_s += loading_s
        sleeper.unit.answered()
        sleeper.clock_s.now_s += serving_s
        os.kill(sleeper.pids[-1], signal.SIGKILL)
    await sleeper.has_started(4)

    assert [record.args[-1] for record in caplog.records] == [0.01, 0.02, 0.01]
    await end(supervisor, sleeper)


# What does not answer


async def test_a_process_that_does_not_answer_is_started_again(tmp_path, board):
    """
    It is there, but not alive.
    """
    sleeper = Sleeper(tmp_path)

    async def silent(pid):
        return Answer.MISSED if pid == sleeper.pids[0] else Answer.GIVEN

    sleeper.unit.question = asking(silent)
    supervisor = supervising(tmp_path, board.reclaim, ping_period_s=0.001)
    await sleeper.unit.start()
    await sleeper.has_started(1)
    supervisor.keep(sleeper.unit)

    await sleeper.has_started(2)

    assert are_gone(sleeper.pids[:1])
    await end(supervisor, sleeper)


async def test_the_first_good_answer_is_when_a_process_is_ready(tmp_path, board, caplog):
    """
    Whoever asks it tells.
    """
    sleeper = Sleeper(tmp_path)
    asked = []

    async def well(pid):
        asked.append(pid)
        return Answer.GIVEN

    sleeper.unit.question = asking(well)
    supervisor = supervising(tmp_path, board.reclaim, ping_period_s=0.001)
    await sleeper.kept_by(supervisor)
    await sleeper.has_started(1)
    await until(lambda: len(asked) > 1)

    sleeper.clock_s.now_s += 7
    life = asyncio.create_task(sleeper.unit.life())
    os.kill(sleeper.pids[0], signal.SIGKILL)

    assert await soon(life) == Life(-9, 7.0)
    await end(supervisor, sleeper)


# A supervision that fails itself


@pytest.mark.parametrize("where", ["start", "ping"])
async def test_a_supervision_that_fails_is_told_and_ends_the_instance(
    tmp_path, board, caplog, where
):
    """
    It was not to end, and nobody would start that process again.
    """
    sleeper = Sleeper(tmp_path)

    async def fail(*_):
        raise RuntimeError("unforeseen")

    supervisor = supervising(tmp_path, board.reclaim, ping_period_s=0.001)
    await sleeper.unit.start()
    await sleeper.has_started(1)
    if where == "ping":
        sleeper.unit.question = asking(fail)
    else:
        sleeper.unit.spawn = fail
    supervisor.keep(sleeper.unit)
    if where == "start":
        os.kill(sleeper.pids[0], signal.SIGKILL)

    with pytest.raises(SupervisionLost, match="supervised no more"):
        await soon(supervisor.failed())

    assert caplog.messages[-1] == "sleeper is supervised no more"
    assert "unforeseen" in str(caplog.records[-1].exc_info[1])
    await end(supervisor, sleeper)


async def test_a_supervision_that_is_stopped_has_not_failed(supervisor, tmp_path, caplog):
    """
    That is the end of the instance.
    """
    sleeper = Sleeper(tmp_path)
    await sleeper.kept_by(supervisor)
    failing = asyncio.create_task(supervisor.failed())

    await end(supervisor, sleeper)

    await turns()
    assert (failing.done(), caplog.messages) == (False, [])
    failing.cancel()
