"""What an engine's answer to the question for its health is."""

import asyncio

import httpx
import pytest

from router.control_plane.backend_health import BackendProbe
from router.control_plane.health import Health
from shm.group_table import GroupEntry, GroupState

pytestmark = pytest.mark.anyio
ENTRY = GroupEntry(0, GroupState.READY, 1, "a", 1, engine="vllm")


async def test_an_answer_that_has_no_end_is_none():
    """
    Else the engine would never be asked again.
    """

    async def endless():
        while True:
            yield b" "
            await asyncio.sleep(0)

    async def answers(_request):
        return httpx.Response(200, content=endless())

    async with httpx.AsyncClient(transport=httpx.MockTransport(answers)) as client:
        assert await BackendProbe(client, limit_s=0).ask(ENTRY) is Health.SILENT
