"""What a front door's own process does: bytes, streams, CPU."""

import asyncio

import orjson
import pytest

from tests.router.clients import chunk, get, post
from tests.router.fakes import until

pytestmark = pytest.mark.anyio

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def begun_stream(group, client):
    client.send(post())
    request = await group.next_request()
    request.write(STREAM + chunk(b'data: {"n": 0}\n\n'))
    await client.head()
    return request


async def test_bytes_are_counted_as_clients_send_and_get_them(group, door, client):
    """
    Heads included, of answers of our own too.
    """
    sent = get(b"/health")
    client.send(sent)
    answer = await client.response()

    assert door.meters.received_bytes == len(sent)
    assert door.meters.sent_bytes > len(answer.body)
    before = door.meters.sent_bytes
    client.send(post())
    (await group.next_request()).answer(b"x" * 5000)
    await client.response()
    assert door.meters.received_bytes == len(sent) + len(post())
    assert 5000 < door.meters.sent_bytes - before < 5500


async def test_a_stream_is_open_from_its_first_piece_to_its_end(group, door, client):
    """
    A request that waits for one is no stream yet.
    """
    assert door.meters.open_streams == 0
    request = await begun_stream(group, client)
    assert door.meters.open_streams == 1

    request.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await client.chunked_rest()

    await door.all_released()
    assert door.meters.open_streams == 0


async def test_a_stream_whose_client_leaves_is_open_no_more(group, door, client):
    """
    However it ends.
    """
    await begun_stream(group, client)
    client.leave()

    await until(lambda: door.meters.open_requests == 0)
    assert door.meters.open_streams == 0


async def test_a_stream_whose_group_is_lost_is_open_no_more(group, door, client):
    """
    However it ends.
    """
    request = await begun_stream(group, client)
    request.abort()

    await until(lambda: door.meters.open_requests == 0)
    assert door.meters.open_streams == 0


async def test_an_answer_that_is_no_stream_opens_none(group, door, client):
    """
    A whole answer is not a stream of one piece.
    """
    client.send(post())
    (await group.next_request()).answer()
    await client.response()

    await door.all_released()
    assert door.meters.open_streams == 0


async def test_a_front_door_tells_its_cpu_time_and_its_life(door):
    """
    With the other meters, when it is asked.
    """
    path = door.door._instance.meters_socket(0)
    reader, writer = await asyncio.open_unix_connection(path)
    told = orjson.loads(await reader.read())
    writer.close()

    assert told["cpu_s"] > 0
    assert told["epoch"] > 0
