import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import pytest

from router import ping
from router.card import CardReader
from router.instance import Instance
from router.ping import Answer, Ping, Pulse, Question
from tests.router.fakes import soon

GIVEN, MISSED, NOT_YET = Answer

pytestmark = pytest.mark.anyio


# What the answers add up to


@pytest.mark.parametrize(
    ("answers", "stopped"),
    [
        ([], False),
        ([MISSED], False),
        ([MISSED, MISSED], True),
        ([MISSED, GIVEN, MISSED], False),
        ([GIVEN, MISSED, MISSED], True),
        ([MISSED, NOT_YET, MISSED], False),
        ([NOT_YET] * 30, False),
        ([NOT_YET] * 31, True),
        ([NOT_YET] * 30 + [GIVEN] + [NOT_YET] * 30, False),
    ],
)
def test_two_misses_in_a_row_are_too_many_and_so_is_a_start_without_end(answers, stopped):
    """
    One miss may be a slow step.
    """
    pulse = Pulse(1)
    for answer in answers:
        pulse = pulse.after(answer)

    assert pulse.has_stopped(Question(None, 30)) is stopped


def test_a_rank_may_load_for_as_long_as_it_takes():
    """
    A model may be large and a disk slow.
    """
    pulse = Pulse(1)
    for _ in range(9999):
        pulse = pulse.after(NOT_YET)

    assert not pulse.has_stopped(Question(None, None))


# Asking and killing


@dataclass
class Asked:
    """A child that answers as it is told."""

    pid: int
    answers: list
    returncode: int | None = None
    kills: int = 0

    def kill(self):
        self.kills += 1
        self.returncode = -9


class OneUnit:
    name = "rank 7"

    def __init__(self, child):
        self.child = child
        self.question = Question(self.ask, None)

    async def ask(self, pid):
        assert pid == self.child.pid
        return self.child.answers.pop(0)


async def test_a_child_is_killed_at_its_second_miss_and_not_at_the_first(caplog):
    """
    With one line that names it.
    """
    child = Asked(11, [GIVEN, MISSED, GIVEN, MISSED, MISSED])
    pinging = Ping(OneUnit(child))
    for _ in range(4):
        await pinging.once()
    assert (child.kills, caplog.messages) == (0, [])

    await pinging.once()

    assert child.kills == 1
    assert caplog.messages == ["rank 7 (pid 11) does not answer and is killed"]
    assert caplog.records[0].levelno == logging.ERROR


async def test_the_misses_of_one_life_are_not_the_next_ones():
    """
    A new process begins with none.
    """
    unit = OneUnit(Asked(11, [MISSED]))
    pinging = Ping(unit)
    await pinging.once()
    unit.child = Asked(12, [MISSED, MISSED])

    await pinging.once()
    assert unit.child.kills == 0

    await pinging.once()
    assert unit.child.kills == 1


@pytest.mark.parametrize("child", [None, Asked(11, [], returncode=3)])
async def test_nobody_is_asked_between_two_lives(child):
    """
    There is nobody to answer.
    """
    await Ping(OneUnit(child)).once()


async def test_a_child_that_ended_while_it_was_asked_is_not_killed():
    """
    Its number may be another's by then.
    """
    child = Asked(11, [MISSED, MISSED])
    unit = OneUnit(child)

    async def ask(pid):
        child.returncode = 0
        return MISSED

    pinging = Ping(unit)
    await pinging.once()
    unit.question = Question(ask, None)
    await pinging.once()

    assert child.kills == 0


# The questions


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
    question = ping.of_front_door(instance, 1, limit_s=0.05)
    async with listening(instance.meters_socket(1), answer):
        assert await soon(question.ask(1)) is expected


@pytest.mark.parametrize(("answer", "expected"), [(WELL, GIVEN), (UNWELL, MISSED), (None, MISSED)])
async def test_the_control_plane_is_asked_for_its_health(instance, answer, expected):
    """
    It must say that it is well.
    """
    question = ping.of_control_plane(instance, limit_s=0.05)
    async with listening(instance.control_socket, answer, b"\r\n\r\n"):
        assert await soon(question.ask(1)) is expected


async def test_nobody_listens_before_a_process_is_ready(instance):
    """
    Neither with no socket there, nor with one that a killed process has left.
    """
    questions = [ping.of_control_plane(instance), ping.of_front_door(instance, 0)]
    assert [await soon(question.ask(1)) for question in questions] == [NOT_YET, NOT_YET]
    for path in (instance.control_socket, instance.meters_socket(0)):
        leave_socket(path)

    assert [await soon(question.ask(1)) for question in questions] == [NOT_YET, NOT_YET]


def leave_socket(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)


def leave_card(instance, port, pid, host="127.0.0.1"):
    card = {"dp_rank": 0, "epoch": 5, "host": host, "port": port, "pid": pid,
            "model": "m", "max_model_len": 1}  # fmt: skip
    instance.card(0).write_bytes(orjson.dumps(card))


async def test_a_rank_is_not_asked_before_its_card_is_there(instance):
    """
    A former life's card is not its.
    """
    question = ping.of_rank(CardReader(instance), 0)
    assert await question.ask(11) is NOT_YET

    leave_card(instance, 1, pid=10)

    assert await question.ask(11) is NOT_YET


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

        assert await soon(ping.of_rank(CardReader(instance), 0).ask(11)) is expected


async def test_a_rank_that_has_left_its_card_and_refuses_has_missed(instance):
    """
    It has listened there, and does no more.
    """
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    leave_card(instance, port, pid=11)

    assert await soon(ping.of_rank(CardReader(instance), 0).ask(11)) is MISSED


@pytest.mark.parametrize("host", ["..", "a\x00b"])
async def test_a_rank_whose_address_is_none_has_missed(instance, host):
    """
    Nobody can be asked there.
    """
    leave_card(instance, 1000, pid=11, host=host)

    assert await soon(ping.of_rank(CardReader(instance), 0).ask(11)) is MISSED
