"""What comes from a group: where an answer ends, what reaches the client, and what is lost."""

import random

import pytest

from tests.router.clients import LAST_CHUNK, SSE_HEAD, chunk, get, post
from tests.router.fakes import turns, until

pytestmark = pytest.mark.anyio

ODD_CHUNKS = (
    b"5\r\nhello\r\n" b"000003;name=value;other\r\n\r\n\x00\r\n" b"1\r\n\r\r\n"
    b"A\r\n0123456789\r\n0\r\ntrailer: yes\r\n\r\n"
)  # fmt: skip
ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nx-odd:  a b \r\n\r\nhello\r\n\r\n\x00\xff",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + ODD_CHUNKS,
    "events": SSE_HEAD + chunk(b"data: {}\n\n") + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    "no reason": b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n",
    "error": b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 5\r\n\r\nshort",
}


def with_ours(answer, received):
    """What a client must get: the same bytes, and the front door's two headers."""
    ident = received.header(b"x-levelhead-dp-balance-id")[0]
    ours = b"x-levelhead-dp-rank: 0\r\nx-levelhead-dp-balance-id: %s\r\n" % ident
    head, _, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n" + ours + b"\r\n" + body


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_is_passed_on_byte_by_byte_as_it_came(group, door, client, kind):
    """
    Framing, header spelling and body are the group's own, and the connection is used again.
    """
    answer = ANSWERS[kind]
    for _ in range(2):
        client.send(post())
        received = await group.next_request()
        received.write(answer)

        expected = with_ours(answer, received)
        assert await client.exactly(len(expected)) == expected
    assert len(group.connections) == 1
    await door.all_released()


@pytest.mark.parametrize("seed", range(40))
async def test_an_answer_cut_anywhere_arrives_unchanged(group, door, client, seed):
    """
    Where the network cuts an answer into pieces makes no difference.
    """
    rng = random.Random(seed)
    for kind in rng.sample(sorted(ANSWERS), 3):
        answer = b"HTTP/1.1 100 Continue\r\n\r\n" * rng.randrange(3) + ANSWERS[kind]
        client.send(post())
        received = await group.next_request()
        cuts = sorted(rng.sample(range(1, len(answer)), rng.randint(0, 6)))
        for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
            received.write(answer[start:end])
            await turns(1)

        expected = with_ours(ANSWERS[kind], received)
        assert await client.exactly(len(expected)) == expected
    assert len(group.connections) == 1
    await door.all_released()


async def test_each_piece_of_a_stream_is_passed_on_at_once(group, client):
    """
    A token is not kept until the next one comes.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD)
    for number in range(5):
        event = chunk(b'data: {"n":%d}\n\n' % number)
        received.write(event)
        if number == 0:
            await client.head()
        assert await client.exactly(len(event)) == event

    received.write(LAST_CHUNK)

    assert await client.exactly(len(LAST_CHUNK)) == LAST_CHUNK
    client.send(get())
    assert (await client.response()).status == 200


async def test_interim_answers_are_dropped(group, client):
    """
    100 and 103 are between the group and the front door.
    """
    client.send(post())
    received = await group.next_request()
    received.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
    await turns()
    received.answer(b"final")

    assert (await client.response()).body == b"final"


async def test_thousands_of_interim_answers_are_dropped_without_recursion(group, client):
    """
    However many come in one piece.
    """
    client.send(post())
    received = await group.next_request()
    received.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000)
    received.answer(b"final")

    assert (await client.response()).body == b"final"


@pytest.mark.parametrize("extra", [b"", b"connection: keep-alive\r\n"])
async def test_a_body_that_ends_with_the_connection_ends_the_clients_too(
    group, door, client, extra
):
    """
    There is no other way to tell its end.
    """
    client.send(post())
    received = await group.next_request()
    received.write(b"HTTP/1.1 200 OK\r\n" + extra + b"\r\nall of")
    head = await client.head()
    assert head.header(b"connection") == b"close"
    received.write(b" it")
    received.close()

    assert await client.rest() == b"all of it"
    await door.all_released()
    assert door.meters.upstream_lost == 0


async def test_the_connection_headers_of_a_group_are_not_passed_on(group, client):
    """
    They are between the group and the front door.
    """
    client.send(post())
    received = await group.next_request()
    received.answer(
        extra=b"Connection: close\r\nKeep-Alive: timeout=5\r\nx-kept: Connection: y\r\n"
    )

    answer = await client.response()

    assert answer.header(b"connection") is answer.header(b"keep-alive") is None
    assert answer.header(b"x-kept") == b"Connection: y"
    client.send(get())
    assert (await client.response()).status == 200


async def test_a_connection_that_the_group_closes_is_not_used_again(group, client):
    """
    The next request goes over a new one.
    """
    for _ in range(2):
        client.send(post())
        (await group.next_request()).answer(extra=b"connection: close\r\n")
        assert (await client.response()).status == 200
    assert len(group.connections) == 2


async def test_an_idle_connection_that_the_group_closed_is_not_used_again(group, client):
    """
    The next request goes over a new one.
    """
    client.send(post())
    received = await group.next_request()
    received.answer()
    await client.response()
    received.close()
    await until(lambda: received.connection_is_lost)
    await turns()

    client.send(post())
    (await group.next_request()).answer()

    assert (await client.response()).status == 200


async def test_bytes_that_nobody_asked_for_end_the_connection(group, client):
    """
    They must not be taken for the next answer.
    """
    client.send(post())
    received = await group.next_request()
    received.answer()
    await client.response()
    received.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfalse")
    await until(lambda: received.connection_is_lost)

    client.send(post())
    (await group.next_request()).answer(b"true")

    assert (await client.response()).body == b"true"


NO_ANSWERS = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "garbage": b"\x00\x01\x02 what is this\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "huge head": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (100 << 10),
    "huge whole head": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: " + b"y" * (100 << 10)
    + b"\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
    "bad status": b"HTTP/1.1 2xx OK\r\n\r\n",
    "two answers": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na" * 2,
    "more than its length": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nabc",
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_what_is_no_answer_is_told_as_a_lost_group(group, door, client, kind):
    """
    502 in OpenAI's shape, the group is asked about the charge, and the client may go on.
    """
    client.send(post())
    received = await group.next_request()
    received.write(NO_ANSWERS[kind])
    received.close()

    answer = await client.response()

    assert (answer.status, answer.error["code"]) == (502, "dp_group_lost")
    assert answer.header(b"retry-after") == b"1"
    await until(lambda: group.settled)
    assert group.settled[0]["dp_balance_id"].encode() in received.head
    await door.all_released()
    client.send(get())
    assert (await client.response()).status == 200


async def test_empty_lines_before_an_answer_are_skipped(group, client):
    """
    The parser allows them, so the head begins after them.
    """
    client.send(post())
    received = await group.next_request()
    received.write(b"\r\n")
    received.answer(b"fine")

    answer = await client.response()

    assert (answer.status, answer.body) == (200, b"fine")


# Clients that speak HTTP/1.0


async def test_an_old_client_gets_plain_bytes_and_a_close(group, door, client):
    """
    HTTP/1.0 knows no chunks.
    """
    client.send(post(version=b"1.0"))
    received = await group.next_request()
    answer = ANSWERS["chunks"]
    for start in range(0, len(answer), 7):
        received.write(answer[start : start + 7])
        await turns(1)

    head = await client.head()

    assert head.header(b"transfer-encoding") is None
    assert head.header(b"connection") == b"close"
    assert await client.rest() == b"hello\r\n\x00\r0123456789"
    await door.all_released()


async def test_an_old_client_that_asks_for_keep_alive_is_closed_all_the_same(group, client):
    """
    One answer, one connection.
    """
    client.send(post(version=b"1.0", extra=b"connection: keep-alive\r\n"))
    (await group.next_request()).answer(b"once")

    assert (await client.response()).body == b"once"
    assert await client.is_closed()


# Flow control


async def test_a_client_that_reads_slowly_slows_its_group_down(group, door):
    """
    The door keeps a bounded part of the answer, and every byte arrives in the end.
    """
    size = 30_000_000
    async with door.client(limit=1 << 16) as client:
        client.send(post())
        received = await group.next_request()
        received.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        body = bytes(range(250)) * (size // 250)
        received.write(body)
        await client.head()
        await turns(200)
        held = received.unsent_bytes
        await turns(50)
        assert received.unsent_bytes == held > size // 2

        assert await client.exactly(size) == body
        await door.all_released()


async def test_a_connection_whose_last_piece_was_too_much_is_read_again(group, door):
    """
    A client that is slow with the end of its answer does not stop the group's next answer.
    """
    number, body = 400, b"x" * 60_000
    group.respond = lambda received: received.answer(body)
    async with door.client(limit=1024) as slow, door.client() as quick:
        slow.send(post() * number)
        await _has_settled(lambda: len(group.received))
        assert len(group.received) < number

        quick.send(post())
        assert (await quick.response()).body == body

        for _ in range(number):
            assert (await slow.response()).body == body
    await door.all_released()


async def _has_settled(value):
    """Wait until the value has not changed for a good while."""
    seen = None
    while seen != value():
        seen = value()
        await turns(30)
