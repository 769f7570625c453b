"""How long the root runs, and how it ends."""

import asyncio

import pytest

from router.errors import SupervisionLost
from router.serve import until_told
from tests.router.fakes import soon, turns


async def never():
    await asyncio.Event().wait()


async def at_once():
    pass


async def fail():
    raise SupervisionLost("nobody is supervised")


@pytest.mark.anyio
@pytest.mark.parametrize("start", [at_once, never])
async def test_it_runs_until_it_is_told_to_stop(start):
    """
    Also while it starts.
    """
    stop = asyncio.Event()
    running = asyncio.create_task(until_told(start(), stop, never()))
    await turns()
    assert not running.done()

    stop.set()

    await soon(running)


@pytest.mark.anyio
@pytest.mark.parametrize(("start", "failed"), [(at_once, fail), (never, fail), (fail, never)])
async def test_it_ends_with_an_error_when_it_cannot_start_or_go_on(start, failed):
    """
    Nobody has told it to stop.
    """
    with pytest.raises(SupervisionLost, match="nobody is supervised"):
        await soon(until_told(start(), asyncio.Event(), failed()))
