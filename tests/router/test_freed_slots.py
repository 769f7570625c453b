"""Slots that backends leave and others get, as a front door sees it."""

import socket
from dataclasses import replace

import pytest

from router.control_plane.metrics import front_door_metrics
from tests.router.backends import Backends, entries
from tests.router.clients import SSE_HEAD, chunk, get, post
from tests.router.fakes import until

pytestmark = pytest.mark.anyio
SLOTS = {"max_groups": 8}


def answers(received):
    received.answer()


def rows(site, *servers):
    """Slot, epoch and server of each, all ready."""
    listed = entries(site.groups)
    return [replace(listed[server], dp_rank=slot, epoch=epoch) for slot, epoch, server in servers]


async def asked(site, path=b"/v1/completions", extra=b""):
    site.client.send(post(b'{"prompt":"a"}', path, extra))
    return await site.client.response()


async def test_who_comes_gets_requests_and_who_goes_none():
    """
    By slots with gaps between them.
    """
    async with Backends.opened(None, None, respond=answers, method="round_robin", **SLOTS) as site:
        site.house.publish_table(*rows(site, (5, 7, 1)))
        for _ in range(3):
            assert (await asked(site)).status == 200
        assert site.num_received == [0, 3]

        site.house.publish_table(*rows(site, (0, 8, 0), (5, 7, 1)))
        for _ in range(4):
            await asked(site)
        assert site.num_received == [2, 5]


async def test_nobody_is_ready_and_nobody_is_a_candidate_where_there_is_nobody():
    """
    503, and it says that there is none.
    """
    async with Backends.opened(None, respond=answers, **SLOTS) as site:
        site.house.publish_table()

        answer = await asked(site)
        assert (answer.status, b"there is none" in answer.body) == (503, True)
        site.client.send(get(b"/ready"))
        ready = await site.client.response()
        assert (ready.status, ready.body) == (503, b'{"ready_groups":0,"groups":0}')


async def test_an_empty_slot_cannot_be_asked_for():
    """
    As little as one that is beyond all slots: 400, with those that there are.
    """
    async with Backends.opened(None, None, respond=answers, **SLOTS) as site:
        site.house.publish_table(*rows(site, (0, 8, 0), (5, 7, 1)))

        refused = await asked(site, extra=b"X-Data-Parallel-Rank: 3\r\n")

        assert (refused.status, b"ranks are 0, 5" in refused.body) == (400, True)
        assert (await asked(site, extra=b"X-Data-Parallel-Rank: 5\r\n")).status == 200


@pytest.mark.parametrize("is_seen_empty", [True, False])
async def test_what_is_open_on_a_slot_that_others_get_runs_out_and_is_not_theirs(is_seen_empty):
    """
    The stream comes to its end, and the newcomer's books know nothing of it.
    """
    async with Backends.opened(None, None, **SLOTS) as site:
        site.house.publish_table(*rows(site, (0, 7, 0)))
        site.client.send(post(b'{"prompt":"a","stream":true}', b"/v1/completions"))
        received = await site.servers[0].next_request()
        received.write(SSE_HEAD + chunk(b"data: {}\n\n"))
        await site.client.head()
        if is_seen_empty:
            site.house.publish_table()
            site.door.door.dispatcher.refresh()
        site.house.publish_table(*rows(site, (0, 9, 1)))
        for _ in range(8):  # as many as end what is silent and lost
            site.door.door.tick()

        assert (site.flying(), site.book()) == ((0, 0), (0, 0))
        received.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await site.client.chunked_rest()
        await until(lambda: site.door.meters.open_requests == 0)

        assert (site.flying(), site.book()) == ((0, 0), (0, 0))
        assert site.door.cell(0).group_epoch == 9
        assert site.door.meters.upstream_lost == 0
        site.door.check_books()


async def test_a_request_may_go_to_who_got_the_slot_of_the_engine_that_it_left():
    """
    It was never sent there, though the number is the same.
    """
    async with Backends.opened(None, None, **SLOTS) as site:
        site.house.publish_table(*rows(site, (0, 7, 0)))
        site.client.send(post(b'{"prompt":"a"}', b"/v1/completions"))
        received = await site.servers[0].next_request()
        site.house.publish_table(*rows(site, (0, 9, 1)))
        received.answer(b"", b"503 Service Unavailable")

        (await site.servers[1].next_request()).answer(b"other")

        assert (await site.client.response()).body == b"other"
        site.door.check_books()


async def test_a_group_that_is_gone_has_no_series_and_its_follower_begins_at_nothing():
    """
    Whether the slot was seen empty or not.
    """
    async with Backends.opened(None, None, respond=answers, **SLOTS) as site:
        site.house.publish_table(*rows(site, (0, 7, 0), (1, 7, 1)))
        for rank in (b"0", b"1", b"1"):
            await asked(site, extra=b"X-Data-Parallel-Rank: " + rank + b"\r\n")

        def dispatches(ranks):
            door = site.door.meters.as_dict() | {"slot": 0, "epoch": 1, "method": "m", "book": []}
            told = {metric.name: metric for metric in front_door_metrics([door], ranks)}
            samples = told["levelhead_dispatches"].samples
            return {each.labels["group"]: each.value for each in samples}

        assert dispatches({0, 1}) == {"0": 1, "1": 2}
        site.house.publish_table(*rows(site, (0, 9, 1)))
        site.door.door.dispatcher.refresh()

        assert dispatches({0}) == {"0": 0}
        assert site.door.meters.dispatches == [0] * 8


async def test_a_retry_asks_nobody_who_came_meanwhile_and_has_not_the_model():
    """
    What the slots' groups serve is looked at anew.
    """

    def refuses(received):
        received.answer(b"full", status=b"503 Service Unavailable")

    async with Backends.opened(None, None, **SLOTS) as site:
        first = rows(site, (0, 7, 0))[0]
        site.house.publish_table(replace(first, models=("m",)))
        site.client.send(post(b'{"prompt":"a","model":"m"}', b"/v1/completions"))
        received = await site.servers[0].next_request()
        other = rows(site, (1, 8, 1))[0]
        site.house.publish_table(replace(first, models=("m",)), replace(other, models=("other",)))

        refuses(received)

        assert (await site.client.response()).body == b"full"
        assert site.num_received == [1, 0]


async def test_a_host_that_is_gone_is_found_though_nobody_asks_it_any_more():
    """
    What is left to an engine that has left must come to an end: the kernel asks its host.
    """
    async with Backends.opened(None, **SLOTS) as site:
        site.client.send(post(b'{"prompt":"a"}', b"/v1/completions"))
        received = await site.servers[0].next_request()
        (connections,) = site.door.door._pool._all.values()
        (connection,) = connections
        opened = connection._transport.get_extra_info("socket")

        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
        received.answer()
        await site.client.response()
