"""Requests that another group takes over: when, how often, and what is left behind of each try."""

import asyncio
import contextlib
import itertools

import orjson
import pytest

from shm.group_table import GroupEntry, GroupState
from tests.router.fakes import (
    LAST_CHUNK,
    SSE_HEAD,
    chunk,
    get,
    post,
    refusing_port,
    silent_port,
    soon,
    turns,
    until,
)
from tests.router.site import Site

pytestmark = pytest.mark.anyio
EVENT = chunk(b'data: {"n":1}\n\n')


def refuse(received):
    received.answer(b'{"busy":true}', b"503 Service Unavailable", b"retry-after: 7\r\n")


def disown(received):
    received.answer(b'{"error":{"code":"wrong_epoch"}}', b"421 Misdirected Request")


def lose(received):
    received.abort()


def lose_after_the_head(received):
    """A stream that was announced, and of which nothing came."""
    received.write(SSE_HEAD)
    received.close()


REASONS = {
    refuse: "refused",
    disown: "wrong_epoch",
    lose: "lost",
    lose_after_the_head: "lost",
}
FAILURES = list(REASONS)


def row(dp_rank, port, state=GroupState.READY, epoch=11):
    return GroupEntry(dp_rank, state, epoch, "127.0.0.1", port)


async def questions(site):
    """Wait for as many answered questions as there were uncertain ends."""
    await until(lambda: site.door.door.settlement.num_open == 0)
    return [len(group.settled) for group in site.groups]


# What is retried


@pytest.mark.parametrize("failures", list(itertools.product(FAILURES, repeat=2)))
async def test_what_fails_without_a_byte_is_tried_on_the_next_group(failures):
    """
    Every pair of failures, and then an answer: the client sees that one alone, and each
    group that may not have seen its charge is asked about it.
    """
    async with Site.opened(3) as site:
        for group, fails in zip(site.groups, failures, strict=False):
            group.respond = fails
        site.client.send(post())
        received = await site.groups[2].next_request()
        received.answer(b"third")

        answer = await site.client.response()

        assert (answer.status, answer.body) == (200, b"third")
        assert answer.header(b"x-levelhead-dp-rank") == b"2"
        ids = [g.received[0].header(b"x-levelhead-dp-balance-id")[0] for g in site.groups]
        assert len(set(ids)) == 3
        assert answer.header(b"x-levelhead-dp-balance-id") == ids[2]
        assert len({group.received[0].body for group in site.groups}) == 1
        assert site.num_received == [1, 1, 1]
        await site.all_released()
        assert await questions(site) == [int(fails is lose) for fails in failures] + [0]
        expected = [REASONS[fails] for fails in failures]
        assert site.door.meters.retries == {reason: expected.count(reason) for reason in expected}
        assert site.door.meters.responses == {200: 1}
        site.client.send(get())
        assert (await site.client.response()).body == b'{"status":"ok"}'


async def test_a_group_that_cannot_be_reached_costs_nothing_and_is_passed_over():
    """
    Its charge is taken back, and nobody is asked.
    """
    async with Site.opened(2) as site:
        with refusing_port() as port:
            site.present(row(0, port))
            site.client.send(post())
            (await site.groups[1].next_request()).answer()

            assert (await site.client.response()).status == 200
        await site.all_released()
        assert site.door.meters.retries == {"unreachable": 1}
        assert site.door.cell(0).returned_requests == 1
        assert await questions(site) == [0, 0]


async def test_each_try_names_the_life_that_it_is_meant_for():
    """
    A leader of another life can tell that it is not meant.
    """
    async with Site.opened(2) as site:
        site.present(row(0, site.groups[0].port, epoch=12))
        site.groups[0].respond = refuse
        site.client.send(post())
        second = await site.groups[1].next_request()

        epochs = [each.header(b"x-levelhead-group-epoch") for each in site.groups[0].received]
        assert [*epochs, second.header(b"x-levelhead-group-epoch")] == [[b"12"], [b"11"]]
        second.answer()
        await site.client.response()


async def test_a_connection_that_carried_a_whole_refusal_is_used_again():
    """
    A group that is full does not have to accept a connection for each request it refuses.
    """
    async with Site.opened(2) as site:
        site.groups[0].respond = refuse
        site.groups[1].respond = lambda received: received.answer()
        for _ in range(3):
            site.client.send(post())
            assert (await site.client.response()).status == 200

        assert [len(group.connections) for group in site.groups] == [1, 1]
        await site.all_released()


async def test_a_refusal_that_comes_in_pieces_is_left_where_it_is():
    """
    What follows its head is nobody's: the connection closes.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        refusing = await site.groups[0].next_request()
        refusing.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nb")
        (await site.groups[1].next_request()).answer(b"other")
        await until(lambda: refusing.connection_is_lost)

        assert (await site.client.response()).body == b"other"
        await site.all_released()


# How often


@pytest.mark.parametrize("fails", FAILURES)
@pytest.mark.parametrize(
    ("num_groups", "max_retries"), list(itertools.product((1, 2, 4), (0, 1, 2, 16)))
)
async def test_tries_are_bounded_and_never_go_to_one_group_twice(num_groups, max_retries, fails):
    """
    The refusal of the last group is passed on as it came; what is no answer is told as a lost
    group.
    """
    async with Site.opened(num_groups, retry_max_retries=max_retries) as site:
        for group in site.groups:
            group.respond = fails
        site.client.send(post())

        answer = await site.client.response()

        num_tries = min(num_groups, max_retries + 1)
        assert site.num_received == [1] * num_tries + [0] * (num_groups - num_tries)
        assert answer.header(b"x-levelhead-dp-rank") == b"%d" % (num_tries - 1)
        if fails is refuse:
            told = (answer.status, answer.body, answer.header(b"retry-after"))
            assert told == (503, b'{"busy":true}', b"7")
        else:
            assert (answer.status, answer.error["code"]) == (502, "dp_group_lost")
        await site.all_released()
        assert site.door.meters.retries.total() == num_tries - 1
        assert site.door.meters.responses == {answer.status: 1}
        asked = num_tries if fails is lose else 0
        assert sum(await questions(site)) == asked


async def test_a_full_group_is_not_tried():
    """
    Nobody else can take the request, so the first group's answer stands.
    """
    async with Site.opened(2) as site:
        site.present(row(1, site.groups[1].port, GroupState.DRAINING))
        site.groups[0].respond = refuse
        site.client.send(post())

        assert (await site.client.response()).status == 503
        assert site.num_received == [1, 0]
        assert site.door.meters.retries == {}


# What is not retried


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 502, 504])
async def test_any_other_answer_is_the_groups_own(status):
    """
    A request that breaks one group would break the next one too.
    """
    async with Site.opened(2) as site:
        site.groups[0].respond = lambda received: received.answer(b"why", b"%d No" % status)
        site.client.send(post())

        answer = await site.client.response()

        assert (answer.status, answer.body, site.num_received) == (status, b"why", [1, 0])


@pytest.mark.parametrize(
    "begun",
    [
        SSE_HEAD + EVENT,
        SSE_HEAD + b"f",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nha",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_nothing_is_retried_once_the_client_has_had_a_byte(begun):
    """
    Another group's answer need not fit to it.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(begun)
        await site.client.head()
        received.abort()

        await site.all_released()
        assert (site.num_received, site.door.meters.retries) == ([1, 0], {})
        assert await questions(site) == [0, 0]


# Heads that wait


async def test_the_head_of_a_stream_waits_for_its_first_byte():
    """
    Until then another group may give the answer.
    """
    async with Site.opened(1) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD)
        reading = asyncio.create_task(site.client.head())
        await turns()
        assert not reading.done()

        received.write(EVENT + LAST_CHUNK)

        assert (await reading).status == 200
        assert await site.client.exactly(len(EVENT + LAST_CHUNK)) == EVENT + LAST_CHUNK


async def test_a_stream_that_ends_without_a_byte_is_an_answer():
    """
    It ends with its connection, as its head said.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        received.close()

        assert (await site.client.head()).header(b"connection") == b"close"
        assert await site.client.is_closed()
        await site.all_released()
        assert site.num_received == [1, 0]


@pytest.mark.parametrize("begun", [b"", b"f", b"f\r\n"])
async def test_an_old_client_has_had_no_byte_of_a_chunk_that_only_began(begun):
    """
    What is taken off for it does not count.
    """
    async with Site.opened(2) as site:
        site.client.send(post(version=b"1.0"))
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD)
        await turns()
        received.write(begun)
        await turns()
        received.abort()
        (await site.groups[1].next_request()).answer(b"whole")

        assert (await site.client.response()).body == b"whole"
        await site.all_released()


# Clients that leave


STAGES = {
    "waits for a head": b"",
    "waits for the rest of a head": b"HTTP/1.1 200 OK\r\n",
    "waits for the first byte": SSE_HEAD,
    "reads": SSE_HEAD + EVENT,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fails", [None, *FAILURES])
async def test_a_client_that_leaves_takes_everything_along(fails, stage):
    """
    At the first group and at the second: each charge is released once, and asked about if
    it was written and not answered.
    """
    async with Site.opened(2) as site:
        rank = int(fails is not None)
        site.groups[0].respond = fails
        site.client.send(post())
        received = await site.groups[rank].next_request()
        received.write(STAGES[stage])
        await turns(5)

        site.client.leave()

        await until(lambda: received.connection_is_lost)
        await site.all_released()
        expected = [int(fails is lose), 0]
        expected[rank] += int(SSE_HEAD not in STAGES[stage])
        assert await questions(site) == expected
        assert site.door.meters.responses == {200 if stage == "reads" else 499: 1}
        assert (site.num_received, site.door.meters.disconnects) == ([1, rank], 1)


@pytest.mark.parametrize("fails", [None, *FAILURES])
async def test_a_client_that_leaves_while_the_door_connects_costs_nothing(fails):
    """
    To the first group, or to the second.
    """
    async with Site.opened(2) as site:
        rank = int(fails is not None)
        site.groups[0].respond = fails
        with silent_port() as port:
            site.present(row(rank, port))
            site.client.send(post())
            await until(lambda: site.door.cell(rank).dispatched_requests == 1)
            await until(lambda: site.door.num_assigned == 1)

            site.client.leave()

            await site.all_released()
        assert site.door.cell(rank).returned_requests == 1
        assert await questions(site) == [int(fails is lose), 0]


async def test_a_client_that_leaves_does_not_close_a_connection_that_others_use_by_now():
    """
    The one that carried the refusal of its request carries somebody else's.
    """
    async with Site.opened(2) as site:
        with silent_port() as port:
            site.present(row(1, port))
            site.client.send(post())
            refuse(await site.groups[0].next_request())
            await until(lambda: site.door.cell(1).dispatched_requests == 1)
            async with site.door.client() as other:
                other.send(post())
                received = await site.groups[0].next_request()

                site.client.leave()
                await until(lambda: site.door.cell(1).returned_requests == 1)
                received.answer(b"other")

                assert (await other.response()).body == b"other"
            assert len(site.groups[0].connections) == 1
        await site.all_released()


@pytest.mark.parametrize("fails", FAILURES)
async def test_a_client_may_leave_at_any_turn_of_the_loop(fails):
    """
    Wherever the request is between the groups, the books balance.
    """
    async with Site.opened(2) as site:
        site.groups[0].respond = fails
        for number_of_turns in range(60):
            async with site.door.client() as client:
                client.send(post())
                for _ in range(number_of_turns):
                    await asyncio.sleep(0)
                client.leave()
            await site.door.all_released()
        await site.all_released()
        asked = await questions(site)
        assert asked[1] == site.num_received[1] > 0
        assert asked[0] <= site.num_received[0]


# Groups that the table gives up


GONE = {
    "dead": {"state": GroupState.DEAD},
    "in a new life": {"epoch": 12},
    "in a new life that starts": {"epoch": 12, "state": GroupState.STARTING},
}


def give_up(site, dp_rank, how):
    """Publish that the group is gone, and let the door look."""
    changed = {"port": site.groups[dp_rank].port} | GONE[how]
    site.present(row(dp_rank, **changed))
    site.door.door.dispatcher.tick()


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n", SSE_HEAD])
async def test_requests_that_wait_for_a_group_that_is_gone_are_retried(how, begun):
    """
    Though their connections stand, as those of a stopped process do.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(begun)
        await turns()

        give_up(site, 0, how)

        (await site.groups[1].next_request()).answer(b"other")
        assert (await site.client.response()).body == b"other"
        await until(lambda: received.connection_is_lost)
        await site.all_released()
        assert site.door.meters.retries == {"lost": 1}
        uncertain = begun != SSE_HEAD
        await questions(site)
        outcome = "seen" if how == "dead" else "epoch_over"
        assert site.door.meters.settlements == ({outcome: 1} if uncertain else {})


@pytest.mark.parametrize("how", GONE)
async def test_streams_of_a_group_that_is_gone_end_with_an_error_event(how):
    """
    And with the end of the answer.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD + EVENT)
        await site.client.head()
        await site.client.exactly(len(EVENT))

        give_up(site, 0, how)

        rest = await site.client.chunked_rest()
        assert rest.endswith(b"\n\n\r\n" + LAST_CHUNK)
        told = rest.partition(b"data: ")[2].partition(b"\n\n")[0]
        assert orjson.loads(told)["error"]["code"] == "dp_group_lost"
        await site.all_released()
        assert site.num_received == [1, 0]


@pytest.mark.parametrize("how", GONE)
async def test_a_connection_that_is_being_made_to_a_group_that_is_gone_is_given_up(how):
    """
    At once, not when connecting has taken too long.
    """
    async with Site.opened(2) as site:
        with silent_port() as port:
            site.present(row(0, port))
            site.client.send(post())
            await until(lambda: site.door.num_assigned == 1)

            site.present(row(0, **({"port": port} | GONE[how])))
            site.door.door.dispatcher.tick()

            received = await soon(site.groups[1].next_request(), 3.0)  # connecting may take 5 s
            received.answer()
            assert (await site.client.response()).status == 200
        await site.all_released()
        assert site.door.meters.retries == {"unreachable": 1}


@pytest.mark.parametrize("state", [GroupState.SUSPECT, GroupState.DRAINING, GroupState.READY])
async def test_streams_of_a_group_that_only_gets_no_more_go_on(state):
    """
    A suspect or draining group finishes what it has.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD + EVENT)
        await site.client.head()

        site.present(row(0, site.groups[0].port, state))
        site.door.door.dispatcher.tick()
        await turns()
        received.write(LAST_CHUNK)

        assert await site.client.exactly(len(EVENT + LAST_CHUNK)) == EVENT + LAST_CHUNK
        await site.all_released()


async def test_a_new_life_at_the_old_address_is_reached_over_a_new_connection():
    """
    Connections that waited belong to the life before.
    """
    async with Site.opened(1) as site:
        for epoch in (11, 12):
            site.present(row(0, site.groups[0].port, epoch=epoch))
            site.client.send(post())
            (await site.groups[0].next_request()).answer()
            assert (await site.client.response()).status == 200
        assert len(site.groups[0].connections) == 2


async def test_a_group_that_refuses_while_it_is_found_dead_is_left_once():
    """
    The look that finds it dead is the one for the next group, in the middle of the exchange.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        site.present(row(0, site.groups[0].port, GroupState.DEAD))
        refuse(received)
        (await site.groups[1].next_request()).answer(b"other")

        assert (await site.client.response()).body == b"other"
        await site.all_released()
        assert site.door.meters.retries == {"refused": 1}
        assert site.num_received == [1, 1]


async def test_all_requests_of_a_lost_group_find_another_one():
    """
    A hundred at once, and not one is lost or given to a client twice.
    """
    async with Site.opened(3) as site, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(site.door.client()) for _ in range(100)]
        for client in clients:
            client.send(post())
        await until(lambda: sum(site.num_received) == 100)
        for group in site.groups[1:]:
            for received in group.received:
                received.answer()
            group.respond = lambda received: received.answer()

        give_up(site, 0, "dead")

        assert [(await client.response()).status for client in clients] == [200] * 100
        await site.all_released()
        assert await questions(site) == [site.num_received[0], 0, 0]
