import asyncio
import os
import signal

import pytest

from router.control_plane.watched_process import WatchedProcess
from shm.process import ProcessId, is_alive
from tests.descriptors import no_descriptors
from tests.router.fakes import soon, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stranger():
    """A process that is nobody's leader."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    yield process
    if process.returncode is None:
        process.kill()
    await soon(process.wait())


def start_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])


def identity(process):
    return ProcessId(process.pid, start_ticks(process.pid))


class Ends:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfds are Linux's")
async def test_an_end_is_told_at_once_and_once(stranger):
    """
    Nobody has to look.
    """
    ends = Ends()
    watched = WatchedProcess(identity(stranger), ends)
    assert watched.is_alive()

    stranger.kill()

    await until(lambda: ends.count)
    assert not watched.is_alive()
    assert not watched.terminate()
    await turns()
    assert ends.count == 1
    watched.close()
    watched.close()


async def test_a_process_that_is_watched_no_more_tells_nothing(stranger):
    """
    Its group has another process by then.
    """
    ends = Ends()
    watched = WatchedProcess(identity(stranger), ends)
    watched.close()

    stranger.kill()

    await soon(stranger.wait())
    await turns()
    assert ends.count == 0


async def test_a_process_is_asked_to_end(stranger):
    """
    By SIGTERM.
    """
    watched = WatchedProcess(identity(stranger), Ends())

    assert watched.terminate()

    assert await soon(stranger.wait()) == -signal.SIGTERM
    watched.close()


async def test_another_process_with_the_same_number_is_left_alone(stranger):
    """
    A pid comes back; one that started at another time is not the one that was meant.
    """
    ends = Ends()
    watched = WatchedProcess(ProcessId(stranger.pid, start_ticks(stranger.pid) - 1), ends)

    assert not watched.is_alive()
    assert not watched.terminate()

    await turns()
    assert stranger.returncode is None
    assert is_alive(ProcessId(stranger.pid, 0))
    assert ends.count == 0
    watched.close()


async def test_a_process_that_is_gone_is_not_alive(stranger):
    """
    Nor is one whose end nobody has taken note of yet.
    """
    process = identity(stranger)
    stranger.kill()
    await soon(stranger.wait())

    watched = WatchedProcess(process, Ends())

    assert not watched.is_alive()
    assert not watched.terminate()
    watched.close()


async def test_without_pidfds_the_end_is_seen_by_who_looks(stranger, monkeypatch):
    """
    As on other systems than Linux.
    """
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    ends = Ends()
    watched = WatchedProcess(identity(stranger), ends)
    assert watched.is_alive()

    assert watched.terminate()

    assert await soon(stranger.wait()) == -signal.SIGTERM
    assert (watched.is_alive(), ends.count) == (False, 0)
    watched.close()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfds are Linux's")
async def test_an_end_that_was_told_is_not_doubted(stranger):
    """
    Though nothing can be read of the process any more.
    """
    seen = []

    def on_exit():
        with no_descriptors():
            seen.append(watched.is_alive())

    watched = WatchedProcess(identity(stranger), on_exit)
    os.kill(stranger.pid, signal.SIGKILL)

    await until(lambda: seen)
    assert seen == [False]


async def test_a_process_of_which_nothing_can_be_read_is_alive(stranger):
    """
    In doubt.
    """
    watched = WatchedProcess(identity(stranger), Ends())

    with no_descriptors():
        assert watched.is_alive()

    watched.close()
