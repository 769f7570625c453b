import os
import signal

import pytest

from tests.router.fakes import turns
from tests.router.sleepers import Sleeper, are_gone, end, supervising

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


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
    assert {unit.grace_s for unit in (*supervisor.ranks, *supervisor.front_doors)} == {45.0}
    assert {unit.question.patience.max_leaving for unit in supervisor.ranks} == {22}


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


async def test_a_reclaim_that_fails_does_not_keep_the_next_life_from_starting(
    supervisor, tmp_path, caplog
):
    """
    It is told of.
    """
    sleeper = Sleeper(tmp_path)

    def fail():
        raise ValueError("released memory")

    sleeper.unit.between_lives = fail
    await sleeper.kept_by(supervisor)
    await sleeper.has_started(1)

    os.kill(sleeper.pids[0], signal.SIGKILL)

    await sleeper.has_started(2)
    assert caplog.messages[1] == "what follows the end of sleeper failed; it is started again"
    assert caplog.records[1].exc_info[0] is ValueError
    await end(supervisor, sleeper)
