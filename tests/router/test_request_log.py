import logging
import os
import stat
from pathlib import Path

import orjson
import pytest

from balancer.load import RequestShape
from router.errors import ConfigError
from router.front_door.request_log import RequestLog, open_request_log
from router.simulate.trace_file import read_trace
from shm.page_digest import page_digests
from tests.router.clients import post
from tests.router.fakes import soon
from tests.router.groups import FakeGroup
from tests.router.house import House

EVENTS = b'data: {"a":1}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n'
STREAM = b"content-type: text/event-stream\r\n"
PROMPT = list(range(300))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "requests.jsonl"


@pytest.fixture
def log(path):
    log = RequestLog(open_request_log(path), lambda: 1000.0)
    yield log
    log.close()


def written(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_tells_time_lengths_and_pages(log, path):
    """
    The time is that of the arrival; of pages of 16 tokens each eighth stands for 128, if any.
    """
    digests = page_digests(PROMPT, 16)
    log.note(2.5, RequestShape(300, digests, 16), 7)
    log.note(1.0, RequestShape(5), 1)
    log.note(0.0, RequestShape(40, digests[:2], 16), 1)
    log.flush()

    assert written(path) == [
        {
            "arrival_s": 997.5,
            "prompt_tokens": 300,
            "output_tokens": 7,
            "page_size": 128,
            "page_digests": [digests[7], digests[15]],
        },
        {"arrival_s": 999.0, "prompt_tokens": 5, "output_tokens": 1},
        {"arrival_s": 1000.0, "prompt_tokens": 40, "output_tokens": 1},
    ]


def test_the_simulator_reads_what_was_written(log, path):
    """
    Also digests that need all of their 64 bits.
    """
    log.note(0.0, RequestShape(300, [1 << 63, 2], 150), 7)
    log.flush()

    traffic = read_trace(path)

    assert traffic.requests == [(1000.0, 300, 7, (1 << 63, 2))]
    assert traffic.page_size == 150


def test_nothing_is_written_before_a_flush_and_all_of_it_after(log, path):
    """
    Noting makes no system call; an empty flush neither.
    """
    log.note(0.0, RequestShape(1), 1)
    assert path.stat().st_size == 0
    log.flush()
    size = path.stat().st_size
    log.flush()

    assert path.stat().st_size == size > 0


def test_only_this_user_may_read_it_also_if_it_was_there_before(path):
    """
    Lengths and times of others' requests are nobody else's business.
    """
    path.write_text("")
    path.chmod(0o644)
    os.close(open_request_log(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_front_doors_append_to_one_file(log, path):
    """
    Neither overwrites what the other wrote.
    """
    other = RequestLog(open_request_log(path), lambda: 2000.0)
    for number in range(3):
        for one in (log, other):
            one.note(0.0, RequestShape(number + 1), 1)
            one.flush()
    other.close()

    assert [line["prompt_tokens"] for line in written(path)] == [1, 1, 2, 2, 3, 3]


def test_a_file_that_cannot_be_is_refused_by_its_flag(tmp_path):
    """
    With the system's reason.
    """
    with pytest.raises(ConfigError, match=r"--request-log .*Is a directory"):
        open_request_log(tmp_path)
    with pytest.raises(ConfigError, match=r"--request-log /dev/null.*a device"):
        open_request_log(Path("/dev/null"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="--request-log"):
        open_request_log(tmp_path / "pipe")


def test_a_write_that_fails_is_told_once(caplog):
    """
    /dev/full takes nothing: the lines are lost, the front door goes on.
    """
    log = RequestLog(os.open("/dev/full", os.O_WRONLY), lambda: 0.0)
    with caplog.at_level(logging.WARNING, "levelhead.front_door"):
        for _ in range(2):
            log.note(0.0, RequestShape(1), 1)
            log.flush()
    log.close()

    assert [record.getMessage() for record in caplog.records] == [
        "the request log misses requests: No space left on device"
    ]


def test_a_torn_line_is_ended_before_the_next(path):
    """
    A pipe with little room takes part of a line, as a full disk may.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    room = os.fpathconf(writing, "PC_PIPE_BUF")
    log = RequestLog(writing, lambda: 0.0)
    log.note(0.0, RequestShape(1, list(range(1 << 60, (1 << 60) + 20_000)), 128), 1)
    log.flush()
    torn = os.read(reading, 1 << 20)
    log.note(0.0, RequestShape(1), 1)
    log.close()
    whole = os.read(reading, room)
    os.close(reading)

    assert not torn.endswith(b"\n")
    assert whole.startswith(b"\n{")
    assert whole.endswith(b"}\n")


# In a front door


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


async def exchanges(path, *answers):
    """A front door that logs relays these answers, and stops."""
    async with (
        House.built(request_log=str(path)) as house,
        FakeGroup.listening() as group,
    ):
        house.present(group, page_size=16)
        async with house.door() as door:
            for body, status, extra in answers:
                async with door.client() as client:
                    client.send(post(orjson.dumps({"prompt": PROMPT}), b"/v1/completions"))
                    received = await soon(group.next_request())
                    received.answer(body, status, extra)
                    await client.response()
    return written(path)


@pytest.mark.anyio
async def test_an_answered_request_is_logged_with_its_usage(path):
    """
    The front door counts the prompt; the answer tells the output.
    """
    usage = b'{"usage": {"prompt_tokens": 300, "completion_tokens": 9}}'

    (line,) = await exchanges(path, (usage, b"200 OK", b""))

    assert (line["prompt_tokens"], line["output_tokens"]) == (300, 9)
    assert "page_digests" not in line


@pytest.mark.anyio
async def test_a_stream_without_usage_is_logged_by_its_events(path):
    """
    Two events with data; the end of the stream is none.
    """
    (line,) = await exchanges(path, (EVENTS, b"200 OK", STREAM))

    assert line["output_tokens"] == 2


@pytest.mark.anyio
async def test_a_refused_request_is_not_logged(path):
    """
    It was no load.
    """
    lines = await exchanges(path, (b"{}", b"400 No", b""), (b"{}", b"200 OK", b""))

    assert len(lines) == 1
