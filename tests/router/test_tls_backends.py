"""Requests to backends behind TLS: real certificates, over real sockets."""

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from router.backends.backend import BackendGroup, Kind
from router.backends.tls import SYSTEM, UNVERIFIED
from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool
from shm.group_table import GroupEntry, GroupState
from tests.router.certified import Authority
from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.fakes import soon, until
from tests.router.groups import FakeGroup
from tests.router.house import House

pytestmark = pytest.mark.anyio


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@asynccontextmanager
async def before(*engines):
    """A client of a door before these: (port, host, tls)."""
    async with AsyncExitStack() as stack:
        groups = tuple(BackendGroup(h, p, Kind.OPENAI, tls=tls) for p, h, tls in engines)
        built = House.built(dp_size=len(groups), backends=groups, method="round_robin")
        house = await stack.enter_async_context(built)
        house.publish_table(
            *(
                GroupEntry(n, GroupState.READY, 1, g.host, g.port, engine="openai", tls=g.tls)
                for n, g in enumerate(groups)
            )
        )
        door = await stack.enter_async_context(house.door())
        yield await stack.enter_async_context(door.client())


def ok(received):
    received.answer()


async def test_an_engine_behind_tls_is_called_by_its_name(authority):
    """
    SNI and Host are the same, whatever the client called the front door; the rest is as it was.
    """
    async with (
        authority.engine() as engine,
        before((engine.port, "localhost", authority.file)) as client,
    ):
        client.send(post(extra=b"Authorization: Bearer k\r\n"))
        received = await engine.next_request()
        received.answer(b'{"over":"tls"}')

        assert (await client.response()).body == b'{"over":"tls"}'
        assert received.header(b"host") == [b"localhost:%d" % engine.port]
        assert received.header(b"authorization") == [b"Bearer k"]
        assert authority.names_asked_for == ["localhost"]
        spoken = engine.connections[0].transport.get_extra_info("ssl_object")
        assert spoken.selected_alpn_protocol() == "http/1.1"


async def test_a_connection_behind_tls_is_kept_for_the_next_request(authority):
    """
    A handshake for each request would cost more than the request.
    """
    async with (
        authority.engine(ok) as engine,
        before((engine.port, "localhost", authority.file)) as client,
    ):
        for _ in range(3):
            client.send(post())
            assert (await client.response()).status == 200

        assert len(engine.connections) == 1


async def test_a_stream_behind_tls_comes_piece_by_piece_and_ends_in_the_engine_with_its_client(
    authority,
):
    """
    As without TLS: nothing is kept back, and who leaves is followed.
    """
    async with (
        authority.engine() as engine,
        before((engine.port, "127.0.0.1", authority.file)) as client,
    ):
        client.send(post())
        received = await engine.next_request()
        received.write(SSE_HEAD + chunk(b"data: 1\n\n"))
        await client.head()
    await until(lambda: received.connection_is_lost)


@pytest.mark.parametrize(
    ("name", "tls", "reason"),
    [
        ("localhost", SYSTEM, b"certificate verify failed"),
        ("elsewhere.example", None, b"Hostname mismatch"),
    ],
)
async def test_an_engine_whose_certificate_is_not_good_gets_nothing(authority, name, tls, reason):
    """
    Of an authority that nobody here trusts, or for another name; the client is told why.
    """
    async with (
        authority.engine(names=(name,)) as engine,
        before((engine.port, "localhost", tls or authority.file)) as client,
    ):
        client.send(post())
        answer = await client.response()

        assert (answer.status, answer.error["code"]) == (502, "dp_group_lost")
        assert reason in answer.body
        assert engine.received == []


async def test_an_engine_may_go_unverified_if_it_was_said_so(authority):
    """
    Its authority is unknown, its name is another.
    """
    async with (
        authority.engine(ok, names=("elsewhere.example",)) as engine,
        before((engine.port, "localhost", UNVERIFIED)) as client,
    ):
        client.send(post())

        assert (await client.response()).status == 200


async def test_a_request_leaves_an_engine_whose_certificate_is_not_good_for_another(
    authority, caplog
):
    """
    It is unreachable like any other, and the log says why.
    """
    caplog.set_level(logging.INFO, "levelhead.front_door")
    async with (
        authority.engine() as bad,
        FakeGroup.listening(ok) as good,
        before((bad.port, "localhost", SYSTEM), (good.port, "127.0.0.1", "")) as client,
    ):
        for _ in range(2):
            client.send(post())
            assert (await client.response()).status == 200

        assert len(good.received) == 2
        assert "cannot connect: [SSL: CERTIFICATE_VERIFY_FAILED]" in caplog.text


async def test_a_file_of_authorities_that_is_gone_makes_its_engine_unreachable(authority, tmp_path):
    """
    Trusting others instead would be worse.
    """
    async with (
        authority.engine() as engine,
        before((engine.port, "localhost", str(tmp_path / "gone.pem"))) as client,
    ):
        client.send(post())

        assert b"No such file" in (await client.response()).body


async def test_connections_with_and_without_tls_are_never_taken_for_each_other(authority):
    """
    Not even where host and port are the same, nor where they are verified otherwise.
    """
    async with authority.engine() as engine:
        pool = UpstreamPool(asyncio.get_running_loop())
        verified = Address("localhost", engine.port, authority.file)
        connection = await pool.connect(verified)
        pool.give_back(connection)

        assert pool.take(verified._replace(tls="")) is None
        assert pool.take(verified._replace(tls=UNVERIFIED)) is None
        assert pool.take(verified) is connection
        connection.cancel()


async def test_a_handshake_that_never_ends_is_given_up():
    """
    Who speaks no TLS at all may say nothing for ever.
    """
    loop = asyncio.get_running_loop()
    silent = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    pool = UpstreamPool(loop, connect_timeout_s=0.05)

    with pytest.raises(TimeoutError):
        await soon(pool.connect(Address("127.0.0.1", port, UNVERIFIED)))

    silent.close()


UNFRAMED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize("is_said", [True, False])
async def test_a_stream_until_the_end_is_whole_only_if_tls_says_that_it_ends(authority, is_said):
    """
    Anybody on the way may end a connection, and only the engine can say that it does.
    """
    async with (
        authority.engine() as engine,
        before((engine.port, "localhost", authority.file)) as client,
    ):
        client.send(post())
        received = await engine.next_request()
        received.write(UNFRAMED + b"data: 1\n\n")
        await client.head()
        assert await client.exactly(9) == b"data: 1\n\n"
        if is_said:
            received.close()
        else:
            received.end_unsaid()

        assert (b"dp_group_lost" in await client.rest()) != is_said


async def test_a_long_answer_until_the_end_comes_whole_to_a_slow_client(authority):
    """
    What TLS has read before its client pauses, and the end behind it, wait for the client.
    """
    body = bytes(range(256)) * (16 << 10)
    async with (
        authority.engine() as engine,
        before((engine.port, "localhost", authority.file)) as client,
    ):
        client.send(post())
        received = await engine.next_request()
        received.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        received.close()
        await client.head()
        for _ in range(50):
            await asyncio.sleep(0)

        assert await client.rest() == body
