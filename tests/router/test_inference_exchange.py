"""Requests to DP groups: charged once, released once, and told honestly when a group is lost."""

import contextlib

import pytest

from balancer.in_flight import InFlight
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import CHAT, LAST_CHUNK, SSE_HEAD, chunk, get, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup, charge_of
from tests.router.house import House

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
    assert sum(door.meters.end_to_end_s.counts) == 0  # it took no time, and was no answer


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


async def test_the_time_of_an_answer_that_its_client_has_left_is_not_measured(group, door, client):
    """
    It says when the client left, and not how long answers take.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD + chunk(b'data: {"n":1}\n\n'))
    await client.head()
    client.leave()
    await door.all_released()

    assert sum(door.meters.ttft_s.counts) == 1
    assert sum(door.meters.end_to_end_s.counts) == 0


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
