"""A front door with one group, over real sockets in one event loop."""

import pytest

from tests.router.groups import FakeGroup
from tests.router.house import House


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
