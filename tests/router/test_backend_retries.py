"""Requests that leave an engine: where else they go, and which are not sent twice."""

import pytest

from shm.group_table import GroupState
from tests.router.backends import Backends
from tests.router.clients import post
from tests.router.fakes import until

pytestmark = pytest.mark.anyio


async def test_an_engine_that_cannot_be_reached_is_left_with_all_its_ranks():
    """
    Their books are empty and stay so: each retry of each request would go there.
    """
    async with Backends.opened((0, 1, 2, 3), None, respond=lambda r: r.answer()) as site:
        site.servers[0].stop_listening()

        for _ in range(5):
            site.client.send(post())
            assert (await site.client.response()).status == 200

        assert site.num_received == [0, 5]
        assert site.door.meters.retries["unreachable"] > 0


async def test_who_cannot_be_reached_is_asked_once():
    """
    With nobody else: the other ranks are at the same address.
    """
    async with Backends.opened((0, 1, 2, 3)) as site:
        site.servers[0].stop_listening()

        site.client.send(post())

        assert (await site.client.response()).status == 502
        assert site.door.meters.retries == {}


@pytest.mark.parametrize("how", ["lost", "refused"])
async def test_another_engine_comes_before_another_rank_of_the_same(how):
    """
    Whether it was lost or refuses; the other one is busier.
    """
    async with Backends.opened((0, 1), None, method="minimum_tokens") as site:
        async with site.door.client() as other:
            other.send(post(extra=b"X-Data-Parallel-Rank: 2\r\n"))
            busy = await site.servers[1].next_request()
            site.client.send(post())
            _leave(await site.servers[0].next_request(), how)

            (await site.servers[1].next_request()).answer(b"other")

            assert (await site.client.response()).body == b"other"
            busy.answer()
            await other.response()
        assert site.num_received == [1, 2]


@pytest.mark.parametrize("how", ["lost", "refused"])
async def test_another_rank_of_the_same_engine_is_better_than_nobody(how):
    """
    One rank may be full, or a connection may break by itself.
    """
    async with Backends.opened((0, 1)) as site:
        site.client.send(post())
        first = await site.servers[0].next_request()
        _leave(first, how)

        second = await site.servers[0].next_request()

        ranks = [each.header(b"x-data-parallel-rank") for each in (first, second)]
        assert sorted(ranks) == [[b"0"], [b"1"]]
        second.answer()
        assert (await site.client.response()).status == 200
        await until(lambda: site.door.meters.retries == {how: 1})


@pytest.mark.parametrize(("how", "status"), [("lost", 502), ("refused", 503)])
@pytest.mark.parametrize(
    ("method", "path", "repeated"),
    [
        (b"POST", b"/v1/completions", True),
        (b"POST", b"/v1/responses", False),
        (b"GET", b"/v1/responses/7", True),
        (b"DELETE", b"/v1/responses/7", False),
    ],
)
async def test_what_may_have_been_done_is_not_done_twice(how, status, method, path, repeated):
    """
    Neither a connection that was lost nor a 503 says what the engine did before.
    """
    async with Backends.opened(None, None) as site:
        site.client.send(post(b'{"input":"x","prompt":"x"}', path).replace(b"POST", method))
        await until(lambda: sum(site.num_received) == 1)
        first = site.num_received.index(1)
        _leave(await site.servers[first].next_request(), how)
        if repeated:
            (await site.servers[1 - first].next_request()).answer()

        response = await site.client.response()

        assert response.status == (200 if repeated else status)
        assert site.num_received[1 - first] == repeated


async def test_what_never_went_out_may_go_elsewhere_whatever_it_is():
    """
    Nobody can have done what nobody was sent.
    """
    async with Backends.opened(None, None, respond=lambda r: r.answer()) as site:
        site.servers[0].stop_listening()

        for _ in range(4):
            site.client.send(post(b'{"input":"x"}', b"/v1/responses"))
            assert (await site.client.response()).status == 200

        assert site.num_received == [0, 4]
        assert site.door.meters.retries["unreachable"] > 0


async def test_a_connection_that_is_closed_as_it_is_taken_is_made_anew():
    """
    To the same engine, which there is no other of: it closes those that wait without a word.
    """
    async with Backends.opened(None) as site:
        await _closed_on_the_second(site, b"/v1/completions")
        (await site.servers[0].next_request()).answer(b"third")

        assert (await site.client.response()).body == b"third"
        assert site.door.meters.retries == {"closed": 1}
        await site.door.all_released()
        assert site.flying() == (0, 0)


async def test_a_new_connection_that_is_closed_is_not_made_anew_for_ever():
    """
    Then the engine has lost it.
    """
    async with Backends.opened(None) as site:
        await _closed_on_the_second(site, b"/v1/completions")
        (await site.servers[0].next_request()).close()

        assert (await site.client.response()).status == 502
        assert site.num_received == [3]


async def test_a_connection_that_is_closed_later_has_lost_its_request():
    """
    It was computed for a while, and goes where lost ones go: nowhere, with one engine.
    """
    async with Backends.opened(None) as site:
        site.client.send(post(path=b"/v1/completions"))
        (await site.servers[0].next_request()).answer(b"first")
        assert (await site.client.response()).body == b"first"
        site.client.send(post(path=b"/v1/completions"))
        received = await site.servers[0].next_request()
        site.door.clock.now_s += 2
        received.close()

        assert (await site.client.response()).status == 502
        assert (site.num_received, site.door.meters.retries) == ([2], {})


async def test_a_connection_that_was_given_up_is_not_made_anew():
    """
    An engine that is stopped takes connections and answers nothing.
    """
    async with Backends.opened(None) as site:
        for body in (b"first", None):
            site.client.send(post(path=b"/v1/completions"))
            received = await site.servers[0].next_request()
            if body:
                received.answer(body)
                assert (await site.client.response()).body == body
        site.present(GroupState.DEAD)
        for _ in range(8):
            site.door.door.tick()

        assert (await site.client.response()).status == 502
        assert site.num_received == [2]


async def test_what_must_not_be_sent_twice_goes_on_a_connection_of_its_own():
    """
    Of one that waited, nobody could tell whether the engine had read it before it was closed.
    """
    async with Backends.opened(None, respond=lambda r: r.answer()) as site:
        for path in (b"/v1/completions", b"/v1/responses", b"/v1/completions"):
            site.client.send(post(path=path))
            assert (await site.client.response()).status == 200

        assert len(site.servers[0].connections) == 2


async def _closed_on_the_second(site, path):
    """A request is answered, and the connection closed when the second has come on it."""
    site.client.send(post(path=path))
    (await site.servers[0].next_request()).answer(b"first")
    assert (await site.client.response()).body == b"first"
    site.client.send(post(path=path))
    (await site.servers[0].next_request()).close()
    assert len(site.servers[0].connections) == 1


def _leave(received, how):
    if how == "lost":
        received.abort()
    else:
        received.answer(status=b"503 Service Unavailable")
