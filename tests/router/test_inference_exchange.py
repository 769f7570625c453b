"""Requests to DP groups: charged once, released once, and told honestly when a group is lost."""

import asyncio
import contextlib

import orjson
import pytest

from balancer.ledger import InFlight
from shm.group_table import GroupEntry, GroupState
from tests.router.fakes import (
    CHAT,
    LAST_CHUNK,
    SSE_HEAD,
    FakeGroup,
    HeldExecutor,
    House,
    charge_of,
    chunk,
    get,
    post,
    refusing_port,
    silent_port,
    turns,
    until,
    write_tokenizer,
)

pytestmark = pytest.mark.anyio


def flying(door, dp_rank=0):
    """What the ledger holds to be on its way to the group."""
    return door.controller.ledger.in_flight(dp_rank)


# What reaches the group


async def test_a_request_reaches_the_group_as_it_was_written(group, client):
    """
    Unknown fields, odd spacing and odd numbers are the group's business.
    """
    body = (
        b' {"messages" : [{"role":"user","content":"\\u00fc\xc3\xbc"}],\n"x_new": 1.0, '
        b'"seed":12345678901234567, "dup":1,"dup":2}\r\n'
    )
    client.send(post(body, extra=b"X-Trace: 1\r\nx-trace: 2\r\nAuthorization: Bearer k\r\n"))

    received = await group.next_request()

    assert received.body == body
    assert (received.method, received.target) == (b"POST", b"/v1/chat/completions")
    assert received.header(b"x-trace") == [b"1", b"2"]
    assert received.header(b"authorization") == [b"Bearer k"]
    assert received.header(b"host") == [b"door"]
    received.answer()
    await client.response()


async def test_headers_of_one_hop_end_at_the_door(group, client):
    """
    Those that `Connection` names too, wherever they stand.
    """
    client.send(
        post(
            extra=b"x-before: 1\r\nConnection: keep-alive, X-Before, x-after\r\nX-After: 2\r\n"
            b"Keep-Alive: 3\r\nTE: trailers\r\nProxy-Authorization: 4\r\nx-stays: 5\r\n"
        )
    )

    received = await group.next_request()

    dropped = (b"connection", b"keep-alive", b"te", b"proxy-authorization", b"x-before", b"x-after")
    assert [received.header(name) for name in dropped] == [[]] * len(dropped)
    assert received.header(b"x-stays") == [b"5"]
    received.answer()
    await client.response()


async def test_a_client_cannot_speak_for_the_front_door(group, door, client):
    """
    Its x-levelhead headers are dropped; the door's own say who charges what.
    """
    forged = b"X-Levelhead-Charge-Tokens: 1\r\nx-levelhead-front-door: 9/9\r\nX-LEVELHEAD-Y: z\r\n"
    client.send(post(extra=forged))

    received = await group.next_request()

    assert received.header(b"x-levelhead-front-door") == [b"0/%d" % door.cell().front_door_epoch]
    assert len(received.header(b"x-levelhead-dp-balance-id")[0]) == 16
    assert received.header(b"x-levelhead-y") == []
    assert len(received.header(b"x-levelhead-charge-tokens")) == 1
    assert flying(door) == InFlight(charge_of(received), 1)
    received.answer()
    answer = await client.response()
    assert answer.header(b"x-levelhead-dp-rank") == b"0"
    ident = received.header(b"x-levelhead-dp-balance-id")[0]
    assert answer.header(b"x-levelhead-dp-balance-id") == ident


async def test_the_charge_stays_in_flight_until_the_group_reports_it(group, door, client, house):
    """
    The end of the answer releases the assignment, the group's report ends the charge.
    """
    client.send(post())
    received = await group.next_request()
    charge, epoch = charge_of(received), door.cell().front_door_epoch
    received.answer()
    await client.response()
    await door.all_released()
    assert flying(door) == InFlight(charge, 1)

    house.report(accepted=((epoch, charge, 1),), num_steps=1)
    client.send(get(b"/ready"))
    await client.response()

    assert flying(door) == InFlight(0, 0)
    door.check_books()


async def test_requests_go_where_fewer_tokens_are():
    """
    Two groups, one request held by each: the third joins the smaller one.
    """
    large = b'{"messages":[{"role":"user","content":"%s"}]}' % (b"long " * 200)
    async with House.built(dp_size=2) as house, contextlib.AsyncExitStack() as stack:
        groups = [await stack.enter_async_context(FakeGroup.listening()) for _ in range(2)]
        house.present(*groups)
        door = await stack.enter_async_context(house.door())
        clients = [await stack.enter_async_context(door.client()) for _ in range(4)]
        for number, body in enumerate((large, CHAT, CHAT, CHAT)):
            clients[number].send(post(body))
            await until(lambda num=number: sum(len(each.received) for each in groups) > num)

        received = sorted((len(group.received), group.received[0].body) for group in groups)

        assert received == [(1, large), (3, CHAT)]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (b"/v1/chat/completions", b"{", None),
        (b"/v1/chat/completions", b"", None),
        (b"/v1/chat/completions", b"[1]", None),
        (b"/v1/chat/completions", b'"text"', None),
        (b"/v1/chat/completions", b'{"messages":[{"content":"\xff"}]}', None),
        (b"/v1/chat/completions", b'{"messages":[{"content":"\\ud800"}]}', None),
        (b"/v1/chat/completions", b"{}", "messages"),
        (b"/v1/chat/completions", b'{"messages":[]}', "messages"),
        (b"/v1/chat/completions", b'{"messages":{}}', "messages"),
        (b"/v1/chat/completions", b'{"messages":["hello"]}', "messages"),
        (b"/v1/completions", b"{}", "prompt"),
        (b"/v1/completions", b'{"prompt":null}', "prompt"),
        (b"/v1/completions", b'{"prompt":[]}', "prompt"),
        (b"/v1/completions", b'{"prompt":[1,"a"]}', "prompt"),
        (b"/v1/completions", b'{"prompt":[true]}', "prompt"),
        (b"/v1/completions", b'{"prompt":[[[1]]]}', "prompt"),
        (b"/v1/completions", b'{"prompt":%s%s}' % (b"[" * 1000, b"]" * 1000), "prompt"),
        (b"/v1/completions", b"[" * 100_000, None),
    ],
)
async def test_what_cannot_be_counted_is_refused(group, door, client, path, body, param):
    """
    400 in OpenAI's shape, naming the parameter; nothing is charged and the connection lives.
    """
    client.send(post(body, path))

    answer = await client.response()

    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.error["param"] == param
    await door.all_released()
    assert (group.received, flying(door)) == ([], InFlight(0, 0))
    client.send(get())
    assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "prompt", [b'"text"', b"[1,2,3]", b'["a","b"]', b"[[1,2],[3]]", b'["a",[1]]', b'""']
)
async def test_every_form_of_prompt_is_taken(group, client, prompt):
    """
    What the completions endpoint allows is dispatched.
    """
    client.send(post(b'{"prompt":%s}' % prompt, b"/v1/completions"))
    received = await group.next_request()

    assert charge_of(received) >= 1
    received.answer()
    assert (await client.response()).status == 200


async def test_without_a_ready_group_a_request_is_refused_at_once():
    """
    503 with Retry-After, not a hang.
    """
    async with House.built(dp_size=2) as house, house.door() as door, door.client() as client:
        dead = GroupEntry(1, GroupState.DEAD, 5, "127.0.0.1", 1)
        house.publish_table(GroupEntry(0, GroupState.STARTING), dead)
        client.send(post())

        answer = await client.response()

        assert (answer.status, answer.error["code"]) == (503, "no_dp_group")
        assert answer.header(b"retry-after") == b"1"
        assert "1 starting" in answer.error["message"]
        assert "1 dead" in answer.error["message"]


async def test_a_full_group_is_no_candidate(group, door, client, house):
    """
    A group that holds as many requests as it takes gets no more.
    """
    house.report(running_requests=60, waiting_requests=40)
    client.send(post())

    answer = await client.response()

    assert (answer.status, answer.error["message"][-6:]) == (503, "1 full")


async def test_errors_of_a_group_are_passed_on(group, door, client):
    """
    Status, body and Retry-After are the group's.
    """
    client.send(post())
    (await group.next_request()).answer(b'{"error":{}}', b"503 Busy", b"retry-after: 7\r\n")

    answer = await client.response()

    assert (answer.status, answer.header(b"retry-after")) == (503, b"7")
    assert door.meters.responses == {503: 1}


# Clients that leave


async def test_a_client_that_leaves_while_it_waits_cancels_its_request(group, door, client):
    """
    The group sees its connection close; the charge is the group's to count, and
    it is asked whether it has.
    """
    client.send(post())
    received = await group.next_request()

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert flying(door) == InFlight(charge_of(received), 1)
    assert (door.meters.disconnects, door.meters.responses) == (1, {499: 1})
    await until(lambda: len(group.settled) == 1)


async def test_a_client_that_leaves_while_it_reads_cancels_its_stream(group, door, client):
    """
    The group sees its connection close in the middle of the stream.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD + chunk(b"data: {}\n\n"))
    await client.head()

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert door.meters.disconnects == 1


async def test_a_client_that_leaves_while_it_reads_nothing_cancels_its_stream(group, door):
    """
    Also while the stream is paused because the client was too slow.
    """
    async with door.client(limit=1024) as client:
        client.send(post())
        received = await group.next_request()
        received.write(SSE_HEAD + chunk(b"data: {}\n\n" * 1000) * 2000)
        await client.head()
        await turns(100)
        assert received.unsent_bytes

        client.leave()

        await until(lambda: received.connection_is_lost)
        await door.all_released()


async def test_everything_that_was_pipelined_is_given_up_with_the_client(group, door, client):
    """
    What waits its turn is never dispatched.
    """
    client.send(post() * 5)
    received = await group.next_request()

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert len(group.received) == 1


async def test_a_client_that_leaves_while_the_door_connects_takes_its_charge_along(
    door, client, house
):
    """
    Nothing was sent, so nothing stays in flight.
    """
    with silent_port() as port:
        house.publish_table(GroupEntry(0, GroupState.READY, 12, "127.0.0.1", port))
        client.send(post())
        await until(lambda: door.num_assigned == 1)
        assert flying(door).requests == 1

        client.leave()

        await door.all_released()
    assert flying(door) == InFlight(0, 0)
    assert door.cell().returned_requests == 1


async def test_a_client_that_leaves_is_released_once_at_every_turn_of_the_loop(group, door):
    """
    Wherever the exchange is when its client leaves, the books balance, and the
    group is asked about each request that was written.
    """
    for number_of_turns in range(40):
        async with door.client() as client:
            client.send(post())
            for _ in range(number_of_turns):
                await asyncio.sleep(0)
            client.leave()
        await door.all_released()
    await until(lambda: len(group.settled) == len(group.received) > 0)
    arrived = InFlight(sum(charge_of(each) for each in group.received), len(group.received))
    await until(lambda: flying(door) == arrived)


@pytest.fixture
async def held(house, group, tmp_path):
    """A door whose long prompts are counted when the test says so, and a client of it."""
    executor = HeldExecutor()
    house.present(group, tokenizer_dir=write_tokenizer(tmp_path))
    async with house.door(executor=executor) as door, door.client() as client:
        client.send(post())
        (await group.next_request()).answer()
        await client.response()
        yield door, client, executor


LONG = b'{"messages":[{"content":"%s"}]}' % (b"word " * 5000)


async def test_a_long_prompt_is_counted_beside_the_event_loop(held, group):
    """
    Short requests of others are not kept waiting by it.
    """
    door, client, executor = held
    client.send(post(LONG))
    await until(lambda: executor.held)
    async with door.client() as other:
        other.send(post())
        (await group.next_request()).answer()
        assert (await other.response()).status == 200

    executor.run_all()

    received = await group.next_request()
    assert charge_of(received) == 5001
    received.answer()
    assert (await client.response()).status == 200
    assert door.meters.prompt_tokens["exact"] == 5001 + 2 * 7


async def test_a_client_that_leaves_while_its_prompt_is_counted_is_not_dispatched(held, group):
    """
    There is nothing to release, and nothing is sent.
    """
    door, client, executor = held
    client.send(post(LONG))
    await until(lambda: executor.held)

    client.leave()

    await until(lambda: door.meters.open_requests == 0)
    executor.run_all()
    await turns()
    await door.all_released()
    assert (len(group.received), door.meters.disconnects) == (1, 1)


async def test_stop_waits_for_a_prompt_that_is_being_counted(held, group):
    """
    The request was read, so it is answered.
    """
    door, client, executor = held
    client.send(post(LONG))
    await until(lambda: executor.held)
    door.door.stop()
    await turns()
    executor.run_all()
    (await group.next_request()).answer(b"done")

    assert (await client.response()).body == b"done"


# Groups that are lost


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
    """
    client.send(post())
    received = await group.next_request()
    async with FakeGroup.listening() as reborn:
        house.present(reborn, epoch=12)

        assert (await client.response()).status == 502
        await until(lambda: received.connection_is_lost)
        await until(lambda: door.meters.settlements == {"epoch_over": 1})
        assert group.settled == reborn.settled == []
        assert flying(door) == InFlight(0, 0)


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


# What is measured


async def test_a_stream_is_measured(group, door, client):
    """
    Time to the first token, the times between tokens, and the whole.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD)
    for number in range(3):
        door.clock.now_s += 0.2
        event = chunk(b'data: {"n":1}\n\n')
        received.write(event)
        if number == 0:
            await client.head()
        await client.exactly(len(event))
    received.write(LAST_CHUNK)
    await client.exactly(len(LAST_CHUNK))
    await door.all_released()

    meters = door.meters
    assert sum(meters.ttft_s.counts) == sum(meters.end_to_end_s.counts) == 1
    assert meters.ttft_s.total == pytest.approx(0.2)
    assert meters.end_to_end_s.total == pytest.approx(0.6)
    assert meters.inter_token_s.total == pytest.approx(0.4)
    assert (meters.dispatches, meters.responses) == ([1], {200: 1})


async def test_the_book_grows_with_what_is_streamed(group, door, client):
    """
    Where the group reports nothing, the door counts the events that it passes on.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD + chunk(b'data: {"n":1}\n\n' * 5))
    await client.head()
    await until(lambda: door.controller.books()[0].tokens == charge_of(received) + 5)

    received.write(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    await door.all_released()
    assert door.controller.books()[0].tokens == 0


async def test_the_estimate_learns_from_the_usage_that_comes_back(group, door, client):
    """
    A group that counts more tokens than estimated raises the next charge.
    """
    body = b'{"messages":[{"role":"user","content":"%s"}]}' % (b"x" * 1000)
    charges = []
    for _ in range(20):
        client.send(post(body))
        received = await group.next_request()
        charges.append(charge_of(received))
        received.answer(b'{"choices":[{}],"usage":{"prompt_tokens": 504,"total_tokens":505}}')
        await client.response()

    assert charges == sorted(charges)
    assert charges[0] == 254
    assert 350 < charges[-1] < 504
    assert door.meters.prompt_tokens == {"estimated": sum(charges)}
