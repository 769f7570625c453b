import asyncio
import os
import socket
from contextlib import asynccontextmanager

import orjson
import pytest

from router import question
from router.card import CardReader
from router.instance import Instance
from router.pulse import Answer, Patience
from tests.descriptors import no_descriptors
from tests.router.fakes import soon
from workers.server import drain

GIVEN, MISSED, NOT_YET, LEAVING, UNKNOWN = Answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def instance(tmp_path):
    return Instance("one", 1, str(tmp_path), "127.0.0.1", 1, 2)


@asynccontextmanager
async def listening(path, answer, request_end=b""):
    """A Unix socket where each request gets that answer; None: silence, and no end."""
    over = asyncio.Event()

    async def respond(reader, writer):
        if request_end:
            await reader.readuntil(request_end)
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(respond, path):
        yield
        over.set()


WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
UNWELL = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"), [(b'{"slot":0}', GIVEN), (b"", MISSED), (None, MISSED)]
)
async def test_a_front_door_is_asked_for_its_meters(instance, answer, expected):
    """
    At its own socket; silence is a miss after the limit.
    """
    asked = question.of_front_door(instance, 1, limit_s=0.05 if answer is None else 5.0)
    async with listening(instance.meters_socket(1), answer):
        assert await soon(asked.ask(1)) is expected


@pytest.mark.parametrize(("answer", "expected"), [(WELL, GIVEN), (UNWELL, MISSED), (None, MISSED)])
async def test_the_control_plane_is_asked_for_its_health(instance, answer, expected):
    """
    It must say that it is well.
    """
    asked = question.of_control_plane(instance, limit_s=0.05 if answer is None else 5.0)
    async with listening(instance.control_socket, answer, b"\r\n\r\n"):
        assert await soon(asked.ask(1)) is expected


async def test_nobody_listens_before_a_process_is_ready(instance):
    """
    Neither with no socket there, nor with one that a killed process has left.
    """
    all_asked = [question.of_control_plane(instance), question.of_front_door(instance, 0)]
    assert [await soon(asked.ask(1)) for asked in all_asked] == [NOT_YET, NOT_YET]
    for path in (instance.control_socket, instance.meters_socket(0)):
        leave_socket(path)

    assert [await soon(asked.ask(1)) for asked in all_asked] == [NOT_YET, NOT_YET]


def leave_socket(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)


def of_rank(instance):
    return question.of_rank(CardReader(instance), 0, drain_timeout_s=30.0)


def leave_card(instance, port, pid, host="127.0.0.1", state="ready"):
    card = {"dp_rank": 0, "epoch": 5, "host": host, "port": port, "pid": pid,
            "model": "m", "max_model_len": 1, "state": state}  # fmt: skip
    instance.card(0).write_bytes(orjson.dumps(card))


async def test_a_rank_is_not_asked_before_its_card_is_there(instance):
    """
    A former life's card is not its.
    """
    asked = of_rank(instance)
    assert await asked.ask(11) is NOT_YET

    leave_card(instance, 1, pid=10)

    assert await asked.ask(11) is NOT_YET


@pytest.mark.parametrize(("answer", "expected"), [(WELL, GIVEN), (UNWELL, MISSED)])
async def test_a_rank_is_asked_for_its_health(instance, answer, expected):
    """
    At the address on its card.
    """

    async def respond(reader, writer):
        asked = await reader.readuntil(b"\r\n\r\n")
        assert asked.startswith(b"GET /health HTTP/1.1\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        leave_card(instance, server.sockets[0].getsockname()[1], pid=11)

        assert await soon(of_rank(instance).ask(11)) is expected


async def test_a_rank_that_has_left_its_card_and_refuses_has_missed(instance):
    """
    It has listened there, and does no more.
    """
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    leave_card(instance, port, pid=11)

    assert await soon(of_rank(instance).ask(11)) is MISSED


@pytest.mark.parametrize("host", ["..", "a\x00b"])
async def test_a_rank_whose_address_is_none_has_missed(instance, host):
    """
    Nobody can be asked there.
    """
    leave_card(instance, 1000, pid=11, host=host)

    assert await soon(of_rank(instance).ask(11)) is MISSED


# Leaving


@asynccontextmanager
async def well_leader():
    """A port where every request is answered well."""

    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WELL)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_rank_that_drains_is_leaving_and_has_a_limit(instance):
    """
    The drain's, and GRACE_S to close what it has open.
    """
    asked = of_rank(instance)
    leave_card(instance, 1, pid=11, state="draining")
    assert await asked.ask(11) is LEAVING
    instance.card(0).unlink()

    assert await asked.ask(11) is LEAVING
    assert asked.patience == Patience(max_not_yet=None, max_leaving=22)


def test_no_rank_is_killed_that_still_ends_in_order():
    """
    The two rooms share no code, so their limits are compared here.
    """
    assert question.GRACE_S > drain.MAX_STOP_S


async def test_a_rank_whose_card_is_gone_is_asked_where_it_was(instance):
    """
    It may have lost its card; if it does not answer there either, it is leaving.
    """
    asked = of_rank(instance)
    async with well_leader() as port:
        leave_card(instance, port, pid=11)
        assert await soon(asked.ask(11)) is GIVEN
        instance.card(0).unlink()
        assert await soon(asked.ask(11)) is GIVEN

    assert await soon(asked.ask(11)) is LEAVING
    assert await soon(asked.ask(12)) is NOT_YET


async def test_who_has_no_descriptor_to_ask_with_learns_nothing(instance):
    """
    Neither of a leader nor of the others.
    """
    leave_card(instance, 1, pid=11)
    all_asked = [of_rank(instance), question.of_control_plane(instance)]
    assert await soon(all_asked[0].ask(11)) is MISSED

    with no_descriptors():
        answers = [await asked.ask(11) for asked in all_asked]

    assert answers == [UNKNOWN, UNKNOWN]


def leader_card(instance, dp_rank, port, pid, **fields):
    card = {"dp_rank": dp_rank, "epoch": 5, "host": "127.0.0.1", "port": port, "pid": pid,
            "model": "m", "max_model_len": 1} | fields  # fmt: skip
    instance.card(dp_rank).write_bytes(orjson.dumps(card))


async def test_a_launcher_answers_when_all_its_ranks_do(instance):
    """
    Whose pids are on their cards; one that has none yet is still starting.
    """
    asked = question.of_ranks(CardReader(instance), range(2), drain_timeout_s=30.0)
    async with leading(WELL) as one, leading(WELL) as two:
        leader_card(instance, 0, one, os.getpid())
        assert await soon(asked.ask(11)) is NOT_YET

        leader_card(instance, 1, two, os.getpid())
        assert await soon(asked.ask(11)) is GIVEN


async def test_a_launcher_has_missed_an_answer_if_one_of_its_ranks_has(instance):
    """
    Whatever the others say, the worst counts.
    """
    asked = question.of_ranks(CardReader(instance), range(2), drain_timeout_s=30.0)
    async with leading(WELL) as one, leading(UNWELL) as two:
        leader_card(instance, 0, one, os.getpid(), state="draining")
        leader_card(instance, 1, two, os.getpid())
        assert await soon(asked.ask(11)) is MISSED
        leader_card(instance, 1, one, os.getpid())
        assert await soon(asked.ask(11)) is LEAVING


async def test_cards_that_ranks_of_an_earlier_launcher_left_are_none_of_its_own(instance):
    """
    Their processes are gone; it is starting.
    """
    asked = question.of_ranks(CardReader(instance), range(1), drain_timeout_s=30.0)
    async with leading(WELL) as one:
        leader_card(instance, 0, one, os.getpid())
        assert await soon(asked.ask(11)) is GIVEN
        leader_card(instance, 0, one, os.getpid(), start_ticks=1)

        assert await soon(asked.ask(12)) is NOT_YET


async def test_a_follower_is_well_as_long_as_it_is_there():
    """
    It has no server; nobody calls that a miss.
    """
    asked = question.of_follower()
    assert await soon(asked.ask(11)) is GIVEN
    assert asked.patience == Patience()


@asynccontextmanager
async def leading(answer):
    """A leader's port, where each request gets that answer."""

    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
