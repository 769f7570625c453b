"""Groups that are lost with a request: what is asked of them, and what its client is told."""

import orjson
import pytest

from balancer.in_flight import InFlight
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import LAST_CHUNK, SSE_HEAD, chunk, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup, charge_of, refusing_port

pytestmark = pytest.mark.anyio


def flying(door, dp_rank=0):
    """What the ledger holds to be on its way to the group."""
    return door.controller.ledger.in_flight(dp_rank)


async def test_a_group_that_refuses_the_connection_costs_nothing(door, client, house):
    """
    502, the charge is taken back, and nobody is asked about it.
    """
    with refusing_port() as port:
        house.publish_table(GroupEntry(0, GroupState.READY, 12, "127.0.0.1", port))
        client.send(post())

        answer = await client.response()

    assert (answer.status, answer.error["code"]) == (502, "dp_group_lost")
    await door.all_released()
    assert flying(door) == InFlight(0, 0)
    assert door.cell().returned_requests == door.cell().dispatched_requests == 1


async def test_a_group_that_hangs_up_at_once_is_told_as_lost(group, door, client):
    """
    However little time lies between its accepting and its closing.
    """
    group.hangs_up = True
    for _ in range(20):
        client.send(post())
        assert (await client.response()).status == 502
    await door.all_released()


async def test_a_group_that_is_lost_before_it_answers_is_asked_about_the_charge(
    group, door, client
):
    """
    Whether it had counted the charge only the group can say.
    """
    client.send(post())
    received = await group.next_request()
    received.abort()

    answer = await client.response()

    assert (answer.status, answer.error["type"]) == (502, "upstream_error")
    await until(lambda: group.settled)
    assert group.settled == [
        {
            "dp_balance_id": received.header(b"x-levelhead-dp-balance-id")[0].decode(),
            "front_door": f"0/{door.cell().front_door_epoch}",
            "charge_tokens": charge_of(received),
            "group_epoch": 11,
        }
    ]
    await until(lambda: door.meters.settlements == {"seen": 1})
    await door.all_released()
    assert door.meters.upstream_lost == 1


async def test_a_new_life_of_a_group_ends_what_the_old_one_had(group, door, client, house):
    """
    And nobody is asked: the charge ended with its epoch; counted in the next it would be wrong.
    The next life is another group, and may be sent the request.
    """
    client.send(post())
    received = await group.next_request()
    async with FakeGroup.listening() as reborn:
        house.present(reborn, epoch=12)

        (await reborn.next_request()).answer()
        assert (await client.response()).status == 200
        await until(lambda: received.connection_is_lost)
        await until(lambda: door.meters.settlements == {"epoch_over": 1})
        assert group.settled == reborn.settled == []
        assert flying(door) == InFlight(charge_of(reborn.received[0]), 1)  # it has reported none


async def test_a_question_that_is_lost_is_asked_again(group, door, client):
    """
    Asking twice does no harm, not knowing does.
    """
    client.send(post())
    received = await group.next_request()
    take, lost = group.take, []

    def lose_first(question):
        lost.append(question)
        group.take = take
        question.abort()

    group.take = lose_first
    received.abort()

    assert (await client.response()).status == 502
    await until(lambda: group.settled)
    assert len(lost) == 1


async def test_a_stream_that_is_lost_ends_with_an_error_event(group, door, client):
    """
    The client's parser sees whole events, then the error, then the end of the answer; the
    connection carries the next request.
    """
    client.send(post())
    received = await group.next_request()
    event = chunk(b'data: {"n":1}\n\n')
    received.write(SSE_HEAD + event)
    await client.head()
    await client.exactly(len(event))
    received.abort()

    size = int(await client.line(), 16)
    told = await client.exactly(size)
    assert await client.exactly(2 + len(LAST_CHUNK)) == b"\r\n" + LAST_CHUNK
    assert orjson.loads(told.removeprefix(b"data: "))["error"]["code"] == "dp_group_lost"
    assert told.endswith(b"\n\n")
    await door.all_released()
    assert group.settled == []  # it had answered: it has counted
    client.send(post())
    (await group.next_request()).answer()
    assert (await client.response()).status == 200


@pytest.mark.parametrize("begun", [b"f\r\ndata: {", b"f\r\n", b"f", b'f\r\ndata: {"n":1}\n\n'])
async def test_a_stream_that_is_lost_within_a_chunk_just_ends(group, client, begun):
    """
    Whatever followed would be taken for the rest of the chunk.
    """
    client.send(post())
    received = await group.next_request()
    event = chunk(b'data: {"n":0}\n\n')
    received.write(SSE_HEAD + event + begun)
    await client.head()
    await client.exactly(len(event + begun))
    received.abort()

    assert await client.is_closed()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_stream_without_chunks_ends_with_a_plain_error_event(group, client, version):
    """
    An HTTP/1.0 client, or a group that streams until it closes: no chunk sizes among the events.
    """
    head = SSE_HEAD
    if version == b"1.1":
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    client.send(post(version=version))
    received = await group.next_request()
    event = b"data: {}\n\n"
    received.write(head + (chunk(event) if version == b"1.0" else event))
    await client.head()
    await client.exactly(len(event))
    received.abort()

    told = await client.rest()

    assert orjson.loads(told.removeprefix(b"data: "))["error"]["code"] == "dp_group_lost"


async def test_an_answer_that_is_lost_in_the_middle_just_ends(group, door, client):
    """
    Fewer bytes than announced: the client sees that by itself.
    """
    client.send(post())
    received = await group.next_request()
    received.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await client.head()
    received.close()

    assert await client.rest() == b"half"
    await door.all_released()
    assert door.meters.upstream_lost == 1
