"""Tasks that come and go by their keys."""

import asyncio

import pytest

from router.control_plane.keyed_tasks import KeyedTasks
from tests.router.fakes import soon, turns, until

pytestmark = pytest.mark.anyio


class Work:
    """Runs until it is ended."""

    def __init__(self):
        self.running = set()

    def of(self, key):
        async def work():
            self.running.add(key)
            try:
                await asyncio.Event().wait()
            finally:
                self.running.discard(key)

        return work


async def test_what_is_started_runs_until_it_is_stopped():
    """
    Also what was started, or stopped, before anything ran.
    """
    tasks, work = KeyedTasks(), Work()
    for key in ("a", "b"):
        tasks.start(key, work.of(key))
    tasks.stop("b")
    keeping = asyncio.create_task(tasks.keep())
    await until(lambda: work.running == {"a"})
    tasks.start("c", work.of("c"))
    await until(lambda: work.running == {"a", "c"})
    tasks.stop("a")
    tasks.stop("a")

    await until(lambda: work.running == {"c"})
    assert tasks.keys == {"c"}
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert work.running == set()


async def test_one_that_returns_leaves_its_key():
    """
    So it may be started again.
    """
    tasks = KeyedTasks()

    async def nothing():
        return

    keeping = asyncio.create_task(tasks.keep())
    await turns(2)
    tasks.start("a", nothing)
    await until(lambda: tasks.keys == set())
    tasks.start("a", nothing)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_one_that_fails_ends_all():
    """
    With its error: nothing is left undone unnoticed.
    """
    tasks, work = KeyedTasks(), Work()

    async def fails():
        raise ZeroDivisionError

    tasks.start("a", work.of("a"))
    tasks.start("b", fails)

    with pytest.raises(ExceptionGroup) as failed:
        await soon(tasks.keep())
    assert failed.group_contains(ZeroDivisionError)
    assert work.running == set()
