"""Requests about what one engine keeps: each engine is asked until one has it."""

import pytest

from tests.router.backends import Backends
from tests.router.clients import get, post

pytestmark = pytest.mark.anyio


def having(*owners):
    """Answers of engines of which only those have what is asked for."""

    def respond(received):
        port = received._connection.transport.get_extra_info("sockname")[1]
        if port in owners:
            received.answer(b"%d" % port)
        else:
            received.answer(b'{"not":"%d"}' % port, b"404 Not Found")

    return respond


def request(method, path, body=b""):
    if method == b"POST":
        return post(body or b"{}", path)
    return get(path).replace(b"GET", method, 1)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (b"GET", b"/v1/responses/resp_7", b""),
        (b"GET", b"/v1/responses/resp_7/input_items?limit=1", b""),
        (b"DELETE", b"/v1/responses/resp_7", b""),
        (b"POST", b"/v1/responses/resp_7/cancel", b""),
        (b"POST", b"/v1/responses", b'{"input":"x","previous_response_id":"resp_7"}'),
        (b"GET", b"/v1/models/an-adapter", b""),
    ],
)
async def test_the_engine_that_has_it_answers(method, path, body):
    """
    Whichever of four it is, and though fewer retries are allowed than that takes.
    """
    async with Backends.opened((0, 1), None, None, None, retry_max_retries=0) as site:
        owner = site.servers[3].port
        for server in site.servers:
            server.respond = having(owner)

        for _ in range(5):
            site.client.send(request(method, path, body))
            answer = await site.client.response()
            assert (answer.status, answer.body) == (200, b"%d" % owner)

        assert all(len(server.received) <= 5 for server in site.servers)
        assert site.door.meters.retries["not_there"] == sum(site.num_received) - 5
        assert site.door.meters.retries_over_budget == 0


async def test_if_nobody_has_it_the_last_answer_passes_as_it_is():
    """
    After each engine was asked once, whatever its ranks.
    """
    async with Backends.opened((0, 1, 2), None, None, respond=having()) as site:
        site.client.send(get(b"/v1/responses/resp_7"))

        answer = await site.client.response()

        assert answer.status == 404
        assert answer.body.startswith(b'{"not":')
        assert site.num_received == [1, 1, 1]
    await _all_well(site)


async def test_an_engine_that_cannot_be_asked_is_no_proof_that_nobody_has_it():
    """
    The client hears that it was lost, not that there is nothing.
    """
    async with Backends.opened(None, None, retry_max_retries=0) as site:
        site.servers[0].respond = having()
        site.servers[1].respond = lambda received: received.abort()
        statuses = set()
        for _ in range(6):
            site.client.send(get(b"/v1/responses/resp_7"))
            statuses.add((await site.client.response()).status)

        assert statuses == {502}


@pytest.mark.parametrize("sent", [post(b'{"model":"m"}'), post(b'{"input":"x"}', b"/v1/responses")])
async def test_a_404_of_what_is_computed_is_the_answer(sent):
    """
    An engine that does not have the model says so.
    """
    async with Backends.opened(None, None, respond=having()) as site:
        site.client.send(sent)

        assert (await site.client.response()).status == 404
        assert sum(site.num_received) == 1


async def test_who_asks_for_a_group_hears_what_it_says():
    """
    Nobody else is asked.
    """
    async with Backends.opened(None, None, respond=having()) as site:
        site.client.send(get(b"/v1/responses/resp_7", extra=b"X-Data-Parallel-Rank: 1\r\n"))

        assert (await site.client.response()).status == 404
        assert site.num_received == [0, 1]


async def _all_well(site):
    """Nobody is taken for broken because something was not there."""
    assert set(site.door.meters.breaker_states.values()) == {0}


async def test_a_model_that_a_group_does_not_have_after_all_is_asked_of_the_next():
    """
    The list of an engine that has just come is not known yet, and may be without it.
    """
    async with Backends.opened(None, None) as site:
        site.present(models=[(), ("m",)])
        owner = site.servers[1].port
        for server in site.servers:
            server.respond = having(owner)

        for _ in range(3):
            site.client.send(post(b'{"model":"m","prompt":"x"}', b"/v1/completions"))
            assert (await site.client.response()).body == b"%d" % owner
        assert site.num_received[0] > 0
