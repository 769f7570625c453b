"""The front door as a whole: who may ask, who answers, and what it tells of itself."""

import asyncio
import contextlib

import orjson
import pytest

from router.front_door.client import ClientConnection
from tests.router.clients import get, post
from tests.router.fakes import soon, until, write_tokenizer
from tests.router.groups import FakeGroup
from tests.router.house import House

pytestmark = pytest.mark.anyio


# The key


@pytest.fixture
async def guarded(group):
    """A client of a door that wants a key."""
    async with House.built(api_key="sesame") as house:
        house.present(group)
        async with house.door() as door, door.client() as client:
            yield client


@pytest.mark.parametrize(
    "value",
    [b"", b"authorization: Bearer wrong\r\n", b"authorization: sesame\r\n",
     b"authorization: Bearer \r\n", b"authorization: Basic sesame\r\n",
     b"authorization: Bearer sesame \xff\r\n"],
)  # fmt: skip
async def test_without_the_key_nothing_is_answered(guarded, group, value):
    """
    401 in OpenAI's shape, for inference and for the control plane's routes alike.
    """
    for request in (post(extra=value), get(b"/v1/models", value), get(b"/v1/loads", value)):
        guarded.send(request)
        answer = await guarded.response()
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert group.received == []


async def test_with_the_key_requests_are_answered(guarded, group):
    """
    The scheme is spelt as the client likes.
    """
    for scheme in (b"Bearer", b"bearer"):
        guarded.send(post(extra=b"Authorization: %s sesame\r\n" % scheme))
        (await group.next_request()).answer()
        assert (await guarded.response()).status == 200


async def test_probes_need_no_key(guarded):
    """
    Load balancers have none.
    """
    guarded.send(get() + get(b"/ready"))

    assert [(await guarded.response()).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("settings", "value", "status"),
    [
        ({}, b"", 200),
        ({}, b"origin: null\r\n", 403),
        ({"host": "0.0.0.0"}, b"", 403),
        ({"host": "0.0.0.0", "admin_api_key": "a"}, b"", 401),
        ({"host": "0.0.0.0", "admin_api_key": "a"}, b"authorization: Bearer a\r\n", 200),
        ({"api_key": "k", "admin_api_key": "a"}, b"authorization: Bearer k\r\n", 401),
        ({"api_key": "k"}, b"authorization: Bearer k\r\n", 200),
    ],
)
async def test_admin_is_guarded_and_goes_to_the_control_plane(settings, value, status):
    """
    It can stop groups, so without a key it is not answered to the whole network.
    """
    async with House.built(**settings) as house:
        path = house.instance.control_socket
        async with FakeGroup.listening(path=path) as control, house.door() as door:
            control.respond = lambda received: received.answer()
            async with door.client() as client:
                host = b"host: localhost:8000\r\n"
                request = b"POST /admin/groups/0/drain HTTP/1.1\r\n%scontent-length: 0\r\n\r\n"
                client.send(request % (host + value))

                answer = await client.response()

        assert answer.status == status
        assert [each.target for each in control.received] == (
            [b"/admin/groups/0/drain"] if status == 200 else []
        )
        if status == 403:
            assert "--admin-api-key" in answer.error["message"]


# The control plane


@pytest.fixture
async def control(house):
    """A control plane; the test answers its requests."""
    async with FakeGroup.listening(path=house.instance.control_socket) as listening:
        yield listening


@pytest.mark.parametrize(
    ("method", "target"),
    [(b"GET", b"/v1/models?a=b"), (b"POST", b"/tokenize"),
     (b"DELETE", b"/x"), (b"OPTIONS", b"*"), (b"GET", b"/metrics")],
)  # fmt: skip
async def test_everything_else_goes_to_the_control_plane(control, door, client, method, target):
    """
    As it was written, over a connection that is kept.
    """
    for _ in range(2):
        client.send(b"%s %s HTTP/1.1\r\ncontent-length: 4\r\nx-levelhead-y: z\r\n\r\nbody"
                    % (method, target))  # fmt: skip
        received = await control.next_request()
        assert (received.method, received.target, received.body) == (method, target, b"body")
        assert received.header(b"x-levelhead-y") == []
        received.answer(b"[]")
        answer = await client.response()
        assert (answer.status, answer.body, answer.header(b"x-levelhead-dp-rank")) == (
            200, b"[]", None,
        )  # fmt: skip
    assert len(control.connections) == 1
    assert door.num_assigned == 0


async def test_a_head_request_is_forwarded_as_get_and_answered_without_a_body(control, client):
    """
    The control plane's routes know GET; the length is that of the body that GET would have.
    """
    client.send(b"HEAD /docs HTTP/1.1\r\n\r\n" + get())
    received = await control.next_request()
    assert received.method == b"GET"
    received.answer(b"page")

    assert (await client.head()).header(b"content-length") == b"4"
    assert (await client.response()).body == b'{"status":"ok"}'


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_without_a_control_plane_its_routes_are_unavailable(group, door, client, method):
    """
    503 in OpenAI's shape; inference goes on over the same connection.
    """
    client.send(method + b" /v1/models HTTP/1.1\r\n\r\n")

    answer = await (client.head() if method == b"HEAD" else client.response())

    assert (answer.status, answer.header(b"retry-after")) == (503, b"1")
    client.send(post())
    (await group.next_request()).answer()
    assert (await client.response()).status == 200


async def test_a_control_plane_that_dies_is_told_and_comes_back(house, client):
    """
    503 while it is away; its next life is found under the same path.
    """
    path = house.instance.control_socket
    async with FakeGroup.listening(path=path) as first:
        client.send(get(b"/a"))
        (await first.next_request()).answer()
        await client.response()
        client.send(get(b"/b"))
        (await first.next_request()).abort()
        answer = await client.response()
        assert (answer.status, answer.error["code"]) == (503, "control_plane_lost")
    async with FakeGroup.listening(path=path) as second:
        client.send(get(b"/c"))
        (await second.next_request()).answer()
        assert (await client.response()).status == 200


async def test_a_client_that_leaves_cancels_its_request_to_the_control_plane(control, client):
    """
    The control plane sees its connection close.
    """
    client.send(get(b"/v1/loads"))
    received = await control.next_request()

    client.leave()

    await until(lambda: received.connection_is_lost)


# Several doors


async def test_doors_see_what_the_others_have_sent():
    """
    With one large request sent by the first door, the second chooses the other group.
    """
    large = b'{"messages":[{"content":"%s"}]}' % (b"long " * 200)
    async with House.built(dp_size=2, num_front_doors=2) as house, contextlib.AsyncExitStack() as s:
        groups = [await s.enter_async_context(FakeGroup.listening()) for _ in range(2)]
        house.present(*groups)
        house.report(2)
        doors = [await s.enter_async_context(house.door(slot)) for slot in range(2)]
        first = await s.enter_async_context(doors[0].client())
        first.send(post(large))
        await until(lambda: any(group.received for group in groups))
        taken = 0 if groups[0].received else 1
        clients = [await s.enter_async_context(doors[1].client()) for _ in range(4)]
        for client in clients:
            client.send(post())
        await until(lambda: len(groups[1 - taken].received) == 4)

        assert len(groups[taken].received) == 1
        loads = doors[1].controller.loads()
        assert loads[taken].in_flight_requests == 1
        assert loads[1 - taken].in_flight_requests == 4


# What it tells


async def told(house, slot=0):
    reader, writer = await asyncio.open_unix_connection(house.instance.meters_socket(slot))
    figures = orjson.loads(await soon(reader.read()))
    writer.close()
    await writer.wait_closed()
    return figures


async def test_meters_are_told_to_whoever_connects(house, group, door, client):
    """
    One JSON object with every counter, the method and the book.
    """
    client.send(post())
    received = await group.next_request()

    figures = await told(house)

    charge = int(received.header(b"x-levelhead-charge-tokens")[0])
    assert figures["dispatches"] == [1]
    assert figures["book"] == [[charge, 1]]
    assert (figures["slot"], figures["method"]) == (0, "minimum_tokens")
    assert figures["open_requests"] == figures["open_connections"] == 1
    received.answer()
    await client.response()
    await door.all_released()
    figures = await told(house)
    assert figures["responses"] == {"200": 1}
    assert sum(figures["end_to_end_s"]["counts"]) == 1


async def test_questions_without_an_answer_are_told(house, group, door, client):
    """
    A charge that its group never settles can be seen.
    """
    group.take = lambda received: received.abort()  # questions too
    client.send(post())
    assert (await client.response()).status == 502

    assert (await told(house))["open_settlements"] == 1


async def test_connections_are_counted_as_they_come_and_go(door):
    """
    The gauge comes back to where it was.
    """
    await until(lambda: door.meters.open_connections == 0)
    async with door.client() as client:
        client.send(get())
        await client.response()
        assert door.meters.open_connections == 1
    await until(lambda: door.meters.open_connections == 0)


async def test_a_door_that_cannot_read_the_tokenizer_estimates(house, group, tmp_path, caplog):
    """
    One warning, and requests go on.
    """
    house.present(group, tokenizer_dir=str(tmp_path))
    async with house.door() as door, door.client() as client:
        for _ in range(2):
            client.send(post())
            (await group.next_request()).answer()
            assert (await client.response()).status == 200

        assert set(door.meters.prompt_tokens) == {"estimated"}
    assert [record.message for record in caplog.records if "estimated" in record.message] != []


async def test_prompts_are_counted_exactly_with_the_groups_tokenizer(house, group, tmp_path):
    """
    The chat template's words count too.
    """
    house.present(group, tokenizer_dir=write_tokenizer(tmp_path))
    async with house.door() as door, door.client() as client:
        client.send(post(b'{"messages":[{"content":"one two three"}]}'))
        received = await group.next_request()
        received.answer()
        await client.response()

        assert received.header(b"x-levelhead-charge-tokens") == [b"4"]
        assert door.meters.prompt_tokens == {"exact": 4}


async def test_a_connection_that_comes_while_stopping_is_closed(house):
    """
    A client that was accepted just before the door stopped does not keep it open.
    """

    class Transport(asyncio.Transport):
        closed = False

        def close(self):
            self.closed = True

    async with house.door() as door:
        door.door.stop()
        transport, connection = Transport(), ClientConnection(door.door)

        connection.connection_made(transport)

        assert transport.closed
        connection.connection_lost(None)


async def test_a_door_that_stops_leaves_an_empty_book(house, group):
    """
    Whoever reclaims its row finds nothing that was open.
    """
    async with house.door() as door:
        async with door.client() as client:
            client.send(post())
            received = await group.next_request()
            door.door.stop()
            received.answer()
            await client.response()
        await soon(door.running)

        assert (door.cell().book_tokens, door.cell().book_requests) == (0, 0)


async def test_a_door_that_stops_asks_no_more_about_charges(house, group):
    """
    They end with its epoch; whatever was still asking has ended when it has stopped.
    """
    group.take = lambda received: received.abort()  # questions too
    async with house.door() as door:
        async with door.client() as client:
            client.send(post())
            assert (await client.response()).status == 502
        assert door.door.settlement.num_open == 1

        door.door.stop()
        await soon(door.running)

        assert door.door.settlement.num_open == 0
