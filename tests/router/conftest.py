"""
A front door with one group, over real sockets in one event loop; and what keeps
processes and groups, with stand-ins for them.
"""

import asyncio
import signal

import pytest

from tests.router.fakes import soon
from tests.router.groups import FakeGroup
from tests.router.house import House
from tests.router.keeper import Keeper
from tests.router.sleepers import Board, supervising


@pytest.fixture
def anyio_backend():
    """The loop that front doors run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def house():
    """Segments for one group and one front door."""
    async with House.built() as built:
        yield built


@pytest.fixture
async def group(house):
    """The group, ready; the test answers its requests."""
    async with FakeGroup.listening() as listening:
        house.present(listening)
        yield listening


@pytest.fixture
async def door(house, group):
    """The front door."""
    async with house.door() as opened:
        yield opened


@pytest.fixture
async def client(door):
    """A connection to the door."""
    async with door.client() as connected:
        yield connected


@pytest.fixture
async def keeper():
    """A membership over segments for two groups."""
    async with Keeper.built() as built:
        yield built


@pytest.fixture
async def leader():
    """A process that might be a group's leader."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    yield process
    if process.returncode is None:
        process.kill()
    await soon(process.wait())


@pytest.fixture
def seen_when_told(keeper):
    """The table at each SIGTERM that comes to this process, which is the leader of both groups."""
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda *_: seen.append(keeper.published))
    yield seen
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture
def board():
    """Whom a supervisor tells of front doors that have ended."""
    return Board()


@pytest.fixture
async def supervisor(tmp_path, board):
    """Over no process yet; what a test has it keep is stopped at the end."""
    built = supervising(tmp_path, board.reclaim)
    yield built
    await soon(built.stop())
