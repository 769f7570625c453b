import asyncio

import httpx
import pytest

from router.backends.engine_client import Accesses, engine_client
from router.control_plane.health import Health, HealthProbe
from shm.group_table import GroupEntry, GroupState
from tests.descriptors import no_descriptors
from tests.router.fakes import soon, until

pytestmark = pytest.mark.anyio
WELL, UNWELL, UNKNOWN = Health.WELL, Health.UNWELL, Health.UNKNOWN


def entry(port=1000, host="127.0.0.1"):
    return GroupEntry(0, GroupState.READY, 5, host, port, "m", 2048)


async def found(outcome):
    """What a probe finds where that is answered or raised."""

    def respond(request):
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome)

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        return await HealthProbe(client).ask(entry())


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (200, WELL),
        (503, UNWELL),
        (httpx.ConnectError("refused"), UNWELL),
        (httpx.ReadTimeout("silent"), UNWELL),
        (httpx.PoolTimeout("no connection is free"), UNKNOWN),
    ],
)
async def test_a_group_that_could_not_be_asked_is_not_unwell(outcome, expected):
    """
    Whoever was asked has answered, or has not.
    """
    assert await found(outcome) is expected


async def test_who_has_no_descriptor_learns_nothing_and_says_so_once(caplog):
    """
    Until there is one again.
    """
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as it:
        here = entry(it.sockets[0].getsockname()[1])
        async with engine_client(Accesses({})) as client:
            probe = HealthProbe(client)
            assert await soon(probe.ask(here)) is UNWELL
            with no_descriptors():
                assert [await soon(probe.ask(here)) for _ in range(3)] == [UNKNOWN] * 3

    (told,) = caplog.messages
    assert told.startswith("groups cannot be asked for their health: ")


async def test_no_probe_waits_for_a_connection():
    """
    However many groups are silent.
    """
    asked, over = [], asyncio.Event()

    async def stay_silent(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        await over.wait()
        writer.close()

    async with await asyncio.start_server(stay_silent, "127.0.0.1", 0) as it:
        here = entry(it.sockets[0].getsockname()[1])
        async with engine_client(Accesses({})) as client:
            probes = [asyncio.create_task(HealthProbe(client).ask(here)) for _ in range(120)]
            await until(lambda: len(asked) == 120)
            over.set()
            await soon(asyncio.gather(*probes))
