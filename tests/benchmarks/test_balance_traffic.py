"""Clients of a live run: whatever becomes of one, the run comes to its end."""

import asyncio
import socket

import pytest

from balancer.simulation.traffic import TracedRequest, Traffic
from benchmarks.balance_traffic import drive

LIMIT_S = 20.0
NUM_REQUESTS = 3


def traffic(num_clients=None):
    requests = [TracedRequest(0.0, 64, 4, ()) for _ in range(NUM_REQUESTS)]
    return Traffic("some", requests, num_clients=num_clients)


async def driven(port, num_clients=None, bodies=(b"{}",) * NUM_REQUESTS):
    async with asyncio.timeout(LIMIT_S):
        return await drive(port, traffic(num_clients), bodies, 1.0, seed=0)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("num_clients", [None, 1])
def test_requests_that_nobody_takes_are_failures_and_the_run_ends(num_clients):
    """
    Those that follow another one, too.
    """
    found = asyncio.run(driven(free_port(), num_clients))

    assert len(found.sent_s) == len(found.late_s) == len(found.failures) == NUM_REQUESTS
    assert found.window_s(NUM_REQUESTS, 0.05) == (found.sent_s[0], found.sent_s[-1])


def test_a_connection_that_is_reset_is_a_failure_and_the_client_goes_on():
    """
    The last request is cut, or fails as well.
    """

    async def reset(reader, writer):
        await reader.readexactly(1)
        linger = socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"  # so that closing is a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, *linger)
        writer.transport.abort()

    async def run():
        async with await asyncio.start_server(reset, "127.0.0.1") as server:
            return await driven(server.sockets[0].getsockname()[1], num_clients=1)

    found = asyncio.run(run())

    assert len(found.sent_s) == NUM_REQUESTS
    assert len(found.failures) >= NUM_REQUESTS - 1
    assert "ConnectionResetError" in found.failures[0]


def test_a_client_that_is_broken_ends_the_run():
    """
    The other requests are never sent, and nobody waits for them.
    """

    async def answer(reader, writer):
        await reader.read()
        writer.close()

    async def run():
        async with await asyncio.start_server(answer, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            await driven(port, bodies=(b"{}", b"{}", None))

    with pytest.raises(TypeError, match="NoneType"):
        asyncio.run(run())
