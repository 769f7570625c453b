"""Requests that another group takes over: when, how often, and what is left behind of each try."""

import itertools
import logging

import pytest

from shm.group_table import GroupState
from tests.descriptors import no_descriptors
from tests.router.clients import SSE_HEAD, get, post
from tests.router.failures import EVENT, FAILURES, REASONS, disown, lose, questions, refuse, row
from tests.router.fakes import until
from tests.router.groups import refusing_port
from tests.router.site import Site

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize(
    ("fails", "why"),
    [(refuse, "it answered 503"), (disown, "it answered 421"), (lose, "its connection was lost: ")],
)
async def test_a_retry_is_told_in_one_line(fails, why, caplog):
    """
    Who failed and how, under which name, and where the request goes next.
    """
    caplog.set_level(logging.INFO, "levelhead.front_door")
    async with Site.opened(2) as site:
        site.groups[0].respond = fails
        site.groups[1].respond = lambda received: received.answer()
        site.client.send(post())
        await site.client.response()

        told = [record for record in caplog.records if record.msg.startswith("request ")]
        ids = [
            group.received[0].header(b"x-levelhead-dp-balance-id")[0].decode()
            for group in site.groups
        ]
        assert [record.levelname for record in told] == ["INFO"]
        assert told[0].message.startswith(f"request {ids[0]}: DP group 0: {why}")
        assert told[0].message.endswith(f"; it goes to DP group 1 as {ids[1]}")


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/models"])
async def test_a_door_without_a_descriptor_for_a_connection_says_so(path):
    """
    That is no group's fault, and the next group could not be reached either.
    """
    async with Site.opened(2) as site:
        with no_descriptors():
            site.client.send(post(path=path))
            answer = await site.client.response()

        assert (answer.status, answer.error["code"]) == (503, "out_of_descriptors")
        assert "open files" in answer.error["message"]
        await site.all_released()
        assert (site.num_received, site.door.meters.retries) == ([0, 0], {})
        assert await questions(site) == [0, 0]


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
