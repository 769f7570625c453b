"""What a front door makes of how its own requests end: whom it sends no more to."""

import logging

import pytest

from balancer.breaker import BreakerState
from router.health_rules import HealthRules
from shm.group_table import GroupState
from tests.router.backends import Backends
from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.fakes import until

pytestmark = pytest.mark.anyio
RULES = HealthRules(cb_failure_threshold=3, cb_success_threshold=1, cb_timeout_duration_secs=5)
LONGER_S = 7.0  # than a cool-down of 5 s, however it varies
READY, DEAD, SUSPECT = GroupState.READY, GroupState.DEAD, GroupState.SUSPECT


def opened(*ranks, **settings):
    return Backends.opened(*ranks, **{"health": RULES, "method": "round_robin"} | settings)


def answering(status):
    return lambda received: received.answer(b"{}", status)


async def ask(site, number=1, rank=None):
    """Statuses of so many requests, one after the other."""
    extra = b"" if rank is None else b"X-Data-Parallel-Rank: %d\r\n" % rank
    statuses = []
    for _ in range(number):
        site.client.send(post(extra=extra))
        statuses.append((await site.client.response()).status)
    return statuses


def states(site):
    return site.door.meters.breaker_states


async def test_an_engine_that_refuses_connections_is_asked_twice_and_no_more():
    """
    Long before anybody has asked it for its health twice.
    """
    async with opened((0, 1), None, respond=lambda r: r.answer()) as site:
        site.servers[0].stop_listening()

        assert await ask(site, 12) == [200] * 12

        assert site.door.meters.retries == {"unreachable": 2}
        assert states(site) == {0: 1, 1: 1, 2: 0}
        assert site.door.meters.breaker_changes == {"open": 1}


async def test_an_engine_that_takes_connections_again_is_as_before():
    """
    When its time has come, with all its ranks, and before anything was answered.
    """
    async with opened((0, 1), None, respond=lambda r: r.answer()) as site:
        site.servers[0].stop_listening()
        await ask(site, 6)
        assert states(site) == {0: 1, 1: 1, 2: 0}
        await site.servers[0].listen_again()
        site.servers[0].respond = lambda received: None

        site.door.clock.now_s += LONGER_S
        async with site.door.client() as first, site.door.client() as second:
            for client in (first, second):
                client.send(post())
            await until(lambda: site.servers[0].received)
            await until(lambda: states(site) == {0: 0, 1: 0, 2: 0})


async def test_without_breakers_it_is_asked_again_and_again():
    """
    --disable-circuit-breaker.
    """
    rules = HealthRules(disable_circuit_breaker=True)
    async with opened(None, None, respond=lambda r: r.answer(), health=rules) as site:
        site.servers[0].stop_listening()

        assert await ask(site, 12) == [200] * 12

        assert site.door.meters.retries["unreachable"] >= 11
        assert states(site) == {}


@pytest.mark.parametrize(
    ("status", "is_fault"),
    [
        (b"200 OK", False),
        (b"400 Bad Request", False),
        (b"404 Not Found", False),
        (b"429 Too Many Requests", False),
        (b"500 Internal Server Error", True),
        (b"501 Not Implemented", False),
        (b"502 Bad Gateway", True),
        (b"503 Service Unavailable", False),
        (b"504 Gateway Timeout", True),
        (b"505 HTTP Version Not Supported", False),
    ],
)
async def test_a_status_is_a_fault_or_not(status, is_fault):
    """
    What a client asks wrongly, and what tells of load, takes no group away.
    """
    async with opened(None, None, respond=answering(status)) as site:
        await ask(site, 4, rank=0)

        assert states(site)[0] == int(is_fault)


async def test_an_answer_that_breaks_off_is_a_fault():
    """
    However well it began; and a client that leaves in the midst of one is none.
    """
    async with opened(None) as site:
        for ends in ("client", "group") * 3:
            assert states(site) == {0: 0}
            async with site.door.client() as client:
                client.send(post(b'{"prompt":"x","stream":true}'))
                received = await site.servers[0].next_request()
                received.write(SSE_HEAD + chunk(b'data: {"n":1}\n\n'))
                await client.head()
                if ends == "group":
                    received.abort()
                    await client.chunked_rest()
            await site.door.all_released()

        assert states(site) == {0: 1}


async def test_a_group_that_is_avoided_is_tried_by_one_request_when_its_time_has_come():
    """
    The others go on elsewhere; once that one is answered well, all is as before.
    """
    async with opened(None, None) as site:
        await _break(site, 0)
        site.door.clock.now_s += LONGER_S
        async with site.door.client() as second, site.door.client() as third:
            clients = (site.client, second, third)
            for number, client in enumerate(clients, 1):
                client.send(post())
                await until(lambda n=number: site.door.num_assigned == n)
            await until(lambda: site.num_received == [4, 2])
            assert states(site)[0] == 2

            (await site.servers[0].next_request()).answer()
            await until(lambda: states(site)[0] == 0)
            for _ in range(2):
                (await site.servers[1].next_request()).answer()

            assert [(await client.response()).status for client in clients] == [200] * 3
        assert site.door.meters.breaker_changes == {"open": 1, "half_open": 1, "closed": 1}


@pytest.mark.parametrize("end", ["the client leaves", "it tells of load"])
async def test_a_try_that_tells_nothing_is_followed_by_another(end):
    """
    Its place is given back, once, however it ends.
    """
    async with opened(None, None) as site:
        await _break(site, 0)
        site.door.clock.now_s += LONGER_S
        await _pass_by(site)
        async with site.door.client() as leaving:
            leaving.send(post(b'{"input":"x"}', b"/v1/responses"))
            received = await site.servers[0].next_request()
            if end == "it tells of load":
                received.answer(status=b"503 Service Unavailable")
                assert (await leaving.response()).status == 503
        await site.door.all_released()
        assert states(site)[0] == 2

        await _pass_by(site)
        site.client.send(post())
        (await site.servers[0].next_request()).answer()
        assert (await site.client.response()).status == 200

        assert states(site)[0] == 0


@pytest.mark.parametrize("was", [DEAD, SUSPECT])
async def test_an_engine_that_is_found_well_again_is_tried_at_once(was):
    """
    Not after the cool-down only: nobody's time has passed.
    """
    async with opened(None, None, respond=lambda r: r.answer()) as site:
        site.servers[0].hangs_up = True
        port = site.servers[0].port
        await ask(site, 6)
        assert states(site)[0] == 1
        site.present(was, READY)
        site.door.door.dispatcher.refresh()
        site.servers[0].hangs_up = False

        site.present(READY, READY)
        assert await ask(site, 4) == [200] * 4

        assert port == site.servers[0].port
        assert states(site)[0] == 0
        assert len(site.servers[0].received) == 2


async def test_if_nobody_else_can_take_it_a_request_goes_to_who_is_avoided(caplog):
    """
    It may fail; refusing it would be no better.  One line says so, and a counter each time.
    """
    async with opened(None, respond=answering(b"500 Internal Server Error")) as site:
        await ask(site, 3)
        assert states(site) == {0: 1}

        with caplog.at_level(logging.WARNING, "levelhead.front_door"):
            assert await ask(site, 5) == [500] * 5

        assert site.door.meters.last_resorts == 5
        assert [r.message for r in caplog.records if "nobody else" in r.message] == [
            "nobody else can take a request: it goes to DP group 0, whose breaker is open"
        ]


async def test_an_open_breaker_changes_no_book():
    """
    What the group has open stays charged until it ends.
    """
    async with opened(None, None) as site:
        async with site.door.client() as other:
            other.send(post(extra=b"X-Data-Parallel-Rank: 0\r\n"))
            first = await site.servers[0].next_request()
            charged = site.flying(0)
            await _break(site, 0)

            assert site.flying(0) == charged
            first.answer()
            await other.response()
        await site.door.all_released()
        assert site.flying(0) == (0, 0)
        assert site.door.door._passive_health._breakers.state(0) is BreakerState.OPEN


async def _break(site, dp_rank):
    """Three answers of 500."""
    for _ in range(3):
        site.client.send(post(extra=b"X-Data-Parallel-Rank: %d\r\n" % dp_rank))
        received = await site.servers[dp_rank].next_request()
        received.answer(status=b"500 Internal Server Error")
        await site.client.response()
    assert states(site)[dp_rank] == 1


async def _pass_by(site):
    """A request whose turn is the second server's, so that the next one's is the first's."""
    site.client.send(post())
    (await site.servers[1].next_request()).answer()
    assert (await site.client.response()).status == 200
