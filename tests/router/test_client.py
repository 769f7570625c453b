"""Client connections: what is read from them, and in which order they are answered."""

import asyncio

import orjson
import pytest

from shm.group_table import GroupEntry, GroupState
from tests.router.clients import CHAT, get, post
from tests.router.fakes import soon, turns, until
from tests.router.house import House

pytestmark = pytest.mark.anyio


async def test_a_connection_carries_one_request_after_the_other(group, door, client):
    """
    Keep-alive: the second request goes over the same two connections as the first.
    """
    for number in (1, 2, 3):
        client.send(post())
        (await group.next_request()).answer(b"%d" % number)

        answer = await client.response()

        assert (answer.status, answer.body) == (200, b"%d" % number)
    assert len(group.connections) == 1
    await door.all_released()


async def test_a_client_that_asks_for_it_is_closed_after_its_answer(group, client):
    """
    `Connection: close` is kept.
    """
    client.send(post(extra=b"connection: close\r\n"))
    (await group.next_request()).answer()

    assert (await client.response()).header(b"connection") == b"close"
    assert await client.is_closed()


async def test_pipelined_requests_are_answered_in_order(group, client):
    """
    The second request reaches the group only after the first is answered.
    """
    client.send(post(b'{"messages":[{"content":"1"}]}') + get() + post(b'{"messages":[{}]}'))
    first = await group.next_request()
    await turns()
    assert len(group.received) == 1

    first.answer(b"one")
    (await group.next_request()).answer(b"three")

    bodies = [(await client.response()).body for _ in range(3)]
    assert bodies == [b"one", b'{"status":"ok"}', b"three"]


async def test_thousands_of_pipelined_requests_are_answered_without_recursion(client):
    """
    Answers that are known at once are written in a loop, not one inside the other.
    """
    number = 5000
    client.send(get() * number)

    for _ in range(number):
        assert (await client.response()).status == 200


async def test_requests_cut_anywhere_are_put_together(group, client):
    """
    A request that comes byte by byte is the request that comes at once.
    """
    for byte in post(extra=b"x-mine: 1\r\n"):
        client.send(bytes((byte,)))
        await client.flushed()
        await asyncio.sleep(0)

    received = await group.next_request()

    assert received.body == CHAT
    assert received.header(b"x-mine") == [b"1"]
    received.answer()
    assert (await client.response()).status == 200


async def test_a_polite_client_is_told_to_go_on(group, client):
    """
    Expect: 100-continue is answered before the body comes, and not passed on.
    """
    whole = post(extra=b"expect: 100-continue\r\n")
    client.send(whole[: -len(CHAT)])
    assert (await client.head()).status == 100

    client.send(CHAT)

    received = await group.next_request()
    assert (received.body, received.header(b"expect")) == (CHAT, [])
    received.answer()
    assert (await client.response()).status == 200


async def test_a_polite_client_with_a_huge_body_is_refused_before_it_sends(client, house):
    """
    The answer to Expect: 100-continue may be 413.
    """
    size = house.instance.max_request_bytes + 1
    client.send(
        b"POST /v1/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
        % size
    )

    assert (await client.response()).status == 413


async def test_a_chunked_request_body_reaches_the_group_with_a_length(group, client):
    """
    Odd chunks, extensions and trailers are the client's framing, not the body.
    """
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1;x=y\r\n" + CHAT[:1] + b"\r\n000A\r\n" + CHAT[1:11] + b"\r\n"
    )
    client.send(b"%X\r\n%s\r\n0\r\nx-levelhead-charge-tokens: 0\r\nx-late: 1\r\n\r\n"
                % (len(CHAT) - 11, CHAT[11:]))  # fmt: skip

    received = await group.next_request()

    assert received.body == CHAT
    assert received.header(b"content-length") == [b"%d" % len(CHAT)]
    assert received.header(b"transfer-encoding") == []
    assert received.header(b"x-late") == []
    received.answer()
    assert (await client.response()).status == 200


@pytest.fixture
async def small_door():
    limits = {"max_request_bytes": 1000, "max_header_bytes": 1000}
    async with House.built(**limits) as built, built.door() as opened:
        yield opened


ENDLESS = {
    "declared body": (413, b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n", b"x" * 1000),
    "chunked body": (413, b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                     b"100\r\n" + b"x" * 256 + b"\r\n"),
    "many headers": (431, b"GET / HTTP/1.1\r\n", b"some-name: some value\r\n" * 20),
    "one header": (431, b"GET / HTTP/1.1\r\nname: ", b"x" * 1000),
    "target": (431, b"GET /", b"x" * 1000),
    "trailers": (431, b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nname: ",
                 b"x" * 1000),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
async def test_what_is_too_large_is_refused_while_it_comes(small_door, kind):
    """
    The client can read the answer although it does not stop sending.
    """
    status, beginning, more = ENDLESS[kind]
    async with small_door.client() as client:
        client.send(beginning)
        for _ in range(20):
            client.send(more)
            await asyncio.sleep(0)

        answer = await client.response()

        assert answer.status == status
        assert answer.error["type"] == "invalid_request_error"
        assert answer.header(b"connection") == b"close"
        client.send(more * 100)
        assert await client.is_closed()


async def test_a_body_as_large_as_allowed_is_taken(small_door):
    """
    The limit itself is allowed, declared or chunked, in chunks however small.
    """
    body = b"x" * 1000
    async with small_door.client() as client:
        client.send(post(body))
        assert (await client.response()).status == 400  # it is no JSON
        client.send(b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in body:
            client.send(b"1\r\nx\r\n")
            await client.flushed()
        client.send(b"0\r\n\r\n")
        assert "not JSON" in (await client.response()).error["message"]


NOT_HTTP = {
    "words": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "two framings": b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
    "no number": b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    "overflow": b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nhost: x\r\n more\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("kind", NOT_HTTP)
async def test_what_is_not_http_is_refused_and_the_connection_closed(client, kind):
    """
    Nothing of it is guessed at: 400, then the end.
    """
    client.send(NOT_HTTP[kind])

    answer = await client.response()

    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert await client.is_closed()


async def test_garbage_after_good_requests_is_refused_after_their_answers(group, client):
    """
    A refusal waits its turn.
    """
    client.send(get() + post() + b"nonsense\r\n\r\n")
    (await group.next_request()).answer(b"mine")

    assert [(await client.response()).status for _ in range(3)] == [200, 200, 400]
    assert await client.is_closed()


async def test_nothing_follows_the_answer_after_which_the_connection_closes(client):
    """
    What a client sends after `Connection: close` is answered by the close.
    """
    client.send(get(extra=b"connection: close\r\n") + get())

    assert (await client.response()).status == 200
    assert await client.is_closed()


async def test_an_offer_to_upgrade_is_not_taken_up(group, client):
    """
    Clients that offer HTTP/2 in clear text (Java's does with every request) get HTTP/1.1.
    """
    offer = b"http2-settings: AAMAAABk\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    for pipelined in (b"", get()):
        client.send(post(extra=offer) + pipelined)
        received = await group.next_request()
        assert received.body == CHAT
        assert received.header(b"upgrade") == received.header(b"http2-settings") == []
        received.answer()
        assert (await client.response()).status == 200
    assert (await client.response()).body == b'{"status":"ok"}'


async def test_a_target_in_absolute_form_is_its_path(group, client):
    """
    Clients behind a proxy setting write the whole URL.
    """
    client.send(post(path=b"http://door:1/v1/chat/completions?a=b"))

    received = await group.next_request()

    assert received.target == b"/v1/chat/completions?a=b"
    received.answer()
    await client.response()


async def test_a_head_request_gets_no_body(client):
    """
    The length is told, the body is not sent, and the connection goes on.
    """
    client.send(b"HEAD /health HTTP/1.1\r\n\r\n" + get())

    head = await client.head()

    assert (head.status, head.header(b"content-length")) == (200, b"15")
    assert (await client.response()).body == b'{"status":"ok"}'


async def test_a_client_that_does_not_read_its_answers_is_not_read_from(door):
    """
    Answers that nobody takes must not fill memory, however many requests come.
    """
    request, num_sent = post(b"{"), 0
    async with door.client(limit=1024) as client:
        while client.unsent_bytes < 1_000_000:
            client.send(request * 500)
            num_sent += 500
            await turns(1)
        assert num_sent < 1_000_000

        for _ in range(num_sent):
            assert (await client.response()).status == 400


async def test_too_many_pipelined_requests_wait_in_the_socket(group, door):
    """
    While sixteen requests wait their turn the connection is not read.
    """
    async with door.client() as client:
        body = b'{"messages":[{}],"x":"' + b"y" * 100_000 + b'"}'
        for _ in range(200):
            client.send(post(body))
        first = await group.next_request()
        await turns(100)
        assert client.unsent_bytes > 100_000

        first.answer(b"1")
        group.respond = lambda received: received.answer(b"1")
        for _ in range(200):
            assert (await client.response()).status == 200
    await door.all_released()


# Time


async def test_an_idle_connection_is_closed(door, client, house):
    """
    After keep_alive_s without a byte, not before.
    """
    client.send(get())
    await client.response()
    door.clock.now_s += house.instance.keep_alive_s
    door.door.check_time()
    client.send(get())
    await client.response()

    door.clock.now_s += house.instance.keep_alive_s + 1
    door.door.check_time()

    assert await client.is_closed()


async def test_a_half_sent_request_times_out(door, client, house):
    """
    A client that stops in the middle is told so, and closed.
    """
    client.send(post(extra=b"expect: 100-continue\r\n")[: -len(CHAT)])
    assert (await client.head()).status == 100
    door.clock.now_s += house.instance.request_timeout_s
    door.door.check_time()
    await turns()

    door.clock.now_s += 1
    door.door.check_time()

    assert (await client.response()).error["code"] == "request_timeout"
    assert await client.is_closed()


async def test_a_connection_that_waits_for_a_group_does_not_time_out(door, client, group):
    """
    Long answers are not idleness.
    """
    client.send(post())
    received = await group.next_request()
    door.clock.now_s += 100_000
    door.door.check_time()
    received.answer()

    assert (await client.response()).status == 200


# Stopping


async def test_stop_lets_a_running_answer_finish(door, client, group):
    """
    The stream goes on to its end; then the connection closes and the door ends.
    """
    client.send(post())
    received = await group.next_request()
    received.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
    await client.head()
    door.door.stop()
    await turns()
    assert not door.running.done()

    received.write(b"def")

    assert await client.rest() == b"abcdef"
    await soon(door.running)


async def test_an_answer_that_begins_while_stopping_says_that_it_is_the_last(door, client, group):
    """
    A client must not send its next request into a closing connection.
    """
    client.send(post())
    received = await group.next_request()
    door.door.stop()
    await turns()
    received.answer(b"last")

    answer = await client.response()

    assert (answer.body, answer.header(b"connection")) == (b"last", b"close")
    assert await client.is_closed()


async def test_an_error_while_stopping_says_that_it_is_the_last(door, client, group):
    """
    Like every other answer.
    """
    client.send(post())
    received = await group.next_request()
    door.door.stop()
    await turns()
    received.abort()

    answer = await client.response()

    assert (answer.status, answer.header(b"connection")) == (502, b"close")
    assert await client.is_closed()


async def test_stop_closes_idle_connections_and_takes_no_new_ones(door, client):
    """
    Nobody is accepted any more.
    """
    client.send(get())
    await client.response()

    door.door.stop()

    assert await client.is_closed()
    await soon(door.running)
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_connection("127.0.0.1", door.port)


async def test_stop_answers_what_was_pipelined(door, client, group):
    """
    A request that was read is answered; the connection closes after the last.
    """
    client.send(post() + post())
    first = await group.next_request()
    door.door.stop()
    await turns()
    first.answer(b"1")

    assert (await client.response()).body == b"1"
    await soon(door.running)


async def test_the_drain_limit_cuts_what_is_left(group):
    """
    A stream that does not end cannot keep the door open for ever.
    """
    async with House.built(drain_timeout_s=0.05) as house:
        house.present(group)
        async with house.door() as door, door.client() as client:
            client.send(post())
            received = await group.next_request()
            door.door.stop()

            await soon(door.running)

            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.head()
            await until(lambda: received.connection_is_lost)
            await door.all_released()


# Local answers


async def test_health_and_readiness_do_not_need_the_control_plane(door, client, house, group):
    """
    A probe of the data plane does not fail while the control plane is down.
    """
    client.send(get() + get(b"/ready"))

    assert (await client.response()).body == b'{"status":"ok"}'
    ready = await client.response()
    assert (ready.status, orjson.loads(ready.body)) == (200, {"ready_groups": 1, "groups": 1})


async def test_without_a_ready_group_the_door_is_not_ready():
    """
    503 tells a load balancer to send clients elsewhere.
    """
    async with House.built(dp_size=2) as house, house.door() as door, door.client() as client:
        house.publish_table(*(GroupEntry(rank, GroupState.STARTING) for rank in range(2)))
        client.send(get(b"/ready"))

        ready = await client.response()

        assert (ready.status, orjson.loads(ready.body)) == (503, {"ready_groups": 0, "groups": 2})
