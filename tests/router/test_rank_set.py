"""The ranks that compute together: the end of one is the end of all."""

import asyncio
import logging
import os
import signal

import pytest

from router.errors import StartError
from router.instance import Instance
from router.options import parse_serve
from router.pauses import Life, Pauses
from router.rank_set import RankSet
from router.supervisor import Supervisor
from tests.router.fakes import soon, turns, until
from tests.router.sleepers import Sleeper, are_gone, end, supervising

pytestmark = pytest.mark.anyio
AT_ONCE_S = 0.0
NEVER_S = 3600.0


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


class Ranks:
    """A set of sleepers, kept by a supervisor."""

    def __init__(self, folder, *modes, grace_s=AT_ONCE_S):
        self.sleepers = [Sleeper(folder, mode, f"rank {r}") for r, mode in enumerate(modes)]
        self.clock_s = self.sleepers[0].clock_s
        units = [sleeper.unit for sleeper in self.sleepers]
        self.set = RankSet(units, self.clock_s, grace_s)

    async def kept_by(self, supervisor):
        await self.set.start()
        supervisor.keep(self.set)

    async def have_started(self, number):
        for sleeper in self.sleepers:
            await sleeper.has_started(number)

    @property
    def lives(self):
        return [len(sleeper.pids) for sleeper in self.sleepers]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_when_one_ends_the_others_are_ended_and_all_are_started_again(
    supervisor, tmp_path, caplog, number
):
    """
    One line says which, how, and that all start again.
    """
    ranks = Ranks(tmp_path, "sleep", "sleep", "sleep")
    await ranks.kept_by(supervisor)
    await ranks.have_started(1)
    lost = ranks.sleepers[1].pids[0]

    os.kill(lost, number)

    await ranks.have_started(2)
    assert are_gone([sleeper.pids[0] for sleeper in ranks.sleepers])
    assert ranks.lives == [2, 2, 2]
    assert caplog.messages == [
        f"rank 1 (pid {lost}) was ended by {number.name}; all 3 ranks are started again in 0.0 s"
    ]
    await end(supervisor, *ranks.sleepers)


async def test_one_that_is_stopped_or_hears_nothing_is_ended_too(supervisor, tmp_path):
    """
    Neither would end at SIGTERM.
    """
    ranks = Ranks(tmp_path, "sleep", "sleep", "stubborn")
    await ranks.kept_by(supervisor)
    await ranks.have_started(1)
    os.kill(ranks.sleepers[0].pids[0], signal.SIGSTOP)

    os.kill(ranks.sleepers[1].pids[0], signal.SIGKILL)

    await ranks.have_started(2)
    ranks.sleepers[2].unit.grace_s = AT_ONCE_S  # it is as stubborn at the end of the test
    assert are_gone([sleeper.pids[0] for sleeper in ranks.sleepers])
    await end(supervisor, *ranks.sleepers)


async def test_those_that_end_by_themselves_are_left_the_time(tmp_path):
    """
    They may have something to say; nobody is killed within the grace.
    """
    ranks = Ranks(tmp_path, "sleep", "sleep", grace_s=NEVER_S)
    await ranks.set.start()
    await ranks.have_started(1)
    over = asyncio.create_task(ranks.set.life())
    os.kill(ranks.sleepers[0].pids[0], signal.SIGKILL)
    await until(lambda: ranks.sleepers[0].unit.child.returncode is not None)
    await turns()
    assert not over.done()

    os.kill(ranks.sleepers[1].pids[0], signal.SIGTERM)

    assert await soon(over) == Life(-9, None)
    assert ranks.sleepers[1].unit.child.returncode == -signal.SIGTERM


async def test_pauses_are_counted_once_for_all(supervisor, tmp_path, caplog):
    """
    However many of them fail.
    """
    ranks = Ranks(tmp_path, "brief", "brief")
    await ranks.kept_by(supervisor)

    await until(lambda: len(caplog.records) >= 4)

    assert [record.args[-1] for record in caplog.records[:4]] == [0.01, 0.02, 0.04, 0.05]
    await end(supervisor, *ranks.sleepers)


async def test_those_that_have_drained_together_are_started_again_at_once(tmp_path, board, caplog):
    """
    It is no error, and who is later than the first is given what a drain may take.
    """
    caplog.set_level(logging.INFO, "levelhead.serve")
    supervisor = supervising(tmp_path, board.reclaim, Pauses(first_s=NEVER_S))
    ranks = Ranks(tmp_path, "drained", "drained")
    await ranks.kept_by(supervisor)
    await ranks.have_started(1)
    for sleeper in ranks.sleepers:
        sleeper.unit.answered()

    os.kill(ranks.sleepers[0].pids[0], signal.SIGTERM)
    await until(lambda: ranks.sleepers[0].unit.child.returncode is not None)
    await turns()
    second = ranks.sleepers[1].unit.child
    assert second.returncode is None
    os.kill(second.pid, signal.SIGTERM)

    await ranks.have_started(2)
    assert second.returncode == 0
    assert caplog.messages[0].endswith("exited with status 0; all 2 ranks are started again")
    await end(supervisor, *ranks.sleepers)


async def test_a_set_is_steady_from_when_the_last_of_it_was_ready(tmp_path):
    """
    And was never ready if one of it was not.
    """
    ranks = Ranks(tmp_path, "sleep", "sleep")
    units = [sleeper.unit for sleeper in ranks.sleepers]
    for unit in units:
        unit.clock_s = ranks.clock_s
    for answering, steady_s in ((units, 20.0), (units[:1], None)):
        await ranks.set.start()
        for unit in answering:
            ranks.clock_s.now_s += 10.0
            unit.answered()
        ranks.clock_s.now_s += 20.0

        units[0].child.kill()

        assert await soon(ranks.set.life()) == Life(-9, steady_s)


async def test_the_cause_is_named_and_not_who_heard_of_it(tmp_path):
    """
    Both have ended when the root looks: status 1 is that of a rank that lost another.
    """
    ranks = Ranks(tmp_path, "bereft", "sleep")
    heard, cause = ranks.sleepers
    await ranks.set.start()
    await cause.has_started(1)
    cause.unit.child.kill()
    await cause.unit.end()
    await heard.unit.end()

    assert await soon(ranks.set.life()) == Life(-9, None)
    assert ranks.set.last_end().startswith("rank 1 ")


async def test_the_cause_is_named_though_the_root_hears_of_it_last(tmp_path):
    """
    A rank's connections are closed before its end is told.
    """
    ranks = Ranks(tmp_path, "bereft", "sleep", "bereft")
    heard, cause, _ = ranks.sleepers
    await ranks.set.start()
    await cause.has_started(1)
    over = asyncio.create_task(ranks.set.life())
    await heard.unit.end()
    await turns()

    cause.unit.child.kill()

    assert await soon(over) == Life(-9, None)
    assert ranks.set.last_end().startswith("rank 1 ")


async def test_if_no_cause_ends_who_heard_of_it_is_named(tmp_path):
    """
    The other was stopped, or is lost in some other way.
    """
    ranks = Ranks(tmp_path, "stubborn", "bereft")
    await ranks.set.start()
    await ranks.have_started(1)

    assert await soon(ranks.set.life()) == Life(1, None)
    assert ranks.set.last_end().startswith("rank 1 ")


async def test_a_set_that_cannot_be_started_whole_is_not_started(tmp_path):
    """
    And names who could not be.
    """
    ranks = Ranks(tmp_path, "sleep", "sleep")
    ranks.sleepers[1].failures = [OSError("no more processes")]

    with pytest.raises(StartError, match="rank 1 could not be started: no more processes"):
        await soon(ranks.set.start())

    assert ranks.sleepers[0].unit.child.returncode == -9


def test_ranks_are_a_set_only_if_they_compute_together(tmp_path):
    """
    All T of them, whatever their groups are.
    """

    instance = Instance("unused", 1, str(tmp_path), "127.0.0.1", 1, 2)

    def made(*flags):
        options = parse_serve(["--dp-size", "2", *flags], {})
        return Supervisor(instance, options, tmp_path, {}, lambda row: 0).ranks

    assert [kept.name for kept in made()] == ["rank 0", "rank 1"]
    (together,) = made("--enable-dp-attention", "--tp-size", "4")
    assert [unit.name for unit in together.units] == ["rank 0", "rank 1", "rank 2", "rank 3"]


async def test_a_set_that_stops_is_told_at_once(tmp_path):
    """
    Not one after the other: a rank leaves the others only when all have drained.
    """
    ranks = Ranks(tmp_path, "drained", "drained")
    await ranks.set.start()
    await ranks.have_started(1)
    first, second = (sleeper.unit.child for sleeper in ranks.sleepers)
    told = []
    first.stop = second.stop = lambda grace_s: _noted(told, grace_s)

    stopping = asyncio.create_task(ranks.set.stop())
    await until(lambda: told == [10.0, 10.0])

    stopping.cancel()
    for child in (first, second):
        child.kill()
        await child.wait()


async def _noted(told, grace_s):
    told.append(grace_s)
    await asyncio.Event().wait()
