"""Requests to backends: what reaches them, what is charged for it, and what is taken back."""

import orjson
import pytest

from balancer.ledger import Book, InFlight
from router.backends.backend import Kind
from shm.group_table import GroupState
from tests.router.backends import Backends
from tests.router.clients import CHAT, SSE_HEAD, chunk, get, post
from tests.router.fakes import soon, until

pytestmark = pytest.mark.anyio
NOTHING = InFlight(0, 0)


async def test_a_backend_is_told_nothing_of_ours():
    """
    No charge, and above all no key of the instance; what the client wrote comes as it was.
    """
    async with Backends.opened(None, instance_key="secret") as site:
        site.client.send(post(extra=b"Authorization: Bearer k\r\nX-Levelhead-Y: 1\r\n"))

        received = await site.servers[0].next_request()

        assert received.raw == (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: door\r\nAuthorization: Bearer k\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(CHAT), CHAT)
        )
        received.answer()
        await site.client.response()


async def test_an_engine_gets_a_host_from_whoever_names_none():
    """
    HTTP/1.0 needs none, and the engine is asked with HTTP/1.1; one that is empty stays so.
    """
    async with Backends.opened(None) as site:
        async with site.door.client() as older:
            older.send(b"GET /version HTTP/1.0\r\n\r\n")
            received = await site.servers[0].next_request()
            assert received.header(b"host") == [b"127.0.0.1:%d" % site.servers[0].port]
            received.answer()
            assert (await older.response()).status == 200

        site.client.send(b"GET /version HTTP/1.1\r\nHost:\r\n\r\n")
        received = await site.servers[0].next_request()
        assert received.header(b"host") == [b""]
        received.answer()
        await site.client.response()


async def test_nobody_follows_the_prefixes_of_a_backend():
    """
    With a method that looks at prefixes too: the question carries the instance's key.
    """
    async with Backends.opened(None, method="auto", instance_key="secret") as site:
        site.client.send(get(b"/version"))
        (await site.servers[0].next_request()).answer()
        await site.client.response()

        site.door.door.check_time()

        assert [each.target for each in site.servers[0].received] == [b"/version"]


@pytest.mark.parametrize("kind", [Kind.VLLM, Kind.SGLANG])
async def test_each_rank_of_an_engine_is_asked_for_by_its_header(kind):
    """
    Ranks need not begin at 0: an engine's second node has the later ones.
    """
    async with Backends.opened((4, 5), kind=kind, method="round_robin") as site:
        asked = []
        for _ in range(4):
            site.client.send(post())
            received = await site.servers[0].next_request()
            received.answer()
            response = await site.client.response()
            rank = int(received.header(b"x-data-parallel-rank")[0])
            assert rank == 4 + int(response.header(b"x-levelhead-dp-rank"))
            asked.append(rank)

        assert sorted(asked) == [4, 4, 5, 5]


async def test_a_client_asks_for_a_group_and_the_engine_for_none():
    """
    The header counts our groups; an engine of one rank would refuse it.
    """
    async with Backends.opened(None, None) as site:
        site.client.send(post(extra=b"X-Data-Parallel-Rank: 1\r\n"))

        received = await site.servers[1].next_request()

        assert received.header(b"x-data-parallel-rank") == []
        received.answer()
        await site.client.response()


async def test_a_charge_is_in_flight_until_its_answer_has_ended():
    """
    Nobody will ever report it as accepted: it is taken back, and nothing is asked.
    """
    async with Backends.opened(None) as site:
        for _ in range(3):
            site.client.send(post())
            received = await site.servers[0].next_request()
            assert site.flying().requests == 1
            assert site.flying().tokens == site.book().tokens > 0
            received.answer()
            await site.client.response()

            await site.door.all_released()
            assert site.flying() == NOTHING
        cell = site.door.cell()
        assert cell.dispatched_requests == cell.returned_requests == 3


@pytest.mark.parametrize("stage", ["sent", "streaming"])
async def test_a_charge_is_taken_back_when_its_client_leaves(stage):
    """
    At whatever stage; the engine's connection is closed, so that it computes no further.
    """
    async with Backends.opened(None) as site:
        site.client.send(post())
        received = await site.servers[0].next_request()
        if stage == "streaming":
            received.write(SSE_HEAD + chunk(b'data: {"a":1}\n\n'))
            await site.client.head()

        site.client.leave()

        await site.door.all_released()
        assert site.flying() == NOTHING
        await until(lambda: received.connection_is_lost)
        assert site.servers[0].settled == []


async def test_a_charge_is_taken_back_when_its_engine_dies():
    """
    The connection breaks, and there is no other group.
    """
    async with Backends.opened(None) as site:
        site.client.send(post())

        (await site.servers[0].next_request()).abort()

        assert (await site.client.response()).status == 502
        await site.door.all_released()
        assert site.flying() == NOTHING
        assert site.servers[0].settled == []


async def test_the_load_of_a_backend_is_the_prompt_and_what_it_has_streamed():
    """
    Exactly as fresh as the stream.
    """
    async with Backends.opened(None) as site:
        site.client.send(post())
        received = await site.servers[0].next_request()
        prompt_tokens = site.book().tokens

        received.write(SSE_HEAD + 5 * chunk(b'data: {"a":1}\n\n'))

        await until(lambda: site.book() == Book(prompt_tokens + 5, 1))
        assert site.door.controller.loads()[0].tokens == prompt_tokens + 5


async def test_requests_go_where_the_books_are_least():
    """
    With no report at all.
    """
    async with Backends.opened(None, None, method="minimum_tokens") as site:
        long = orjson.dumps({"prompt": "x" * 4000})
        site.client.send(post(long, b"/v1/completions"))
        await until(lambda: sum(site.num_received) == 1)
        other = site.num_received.index(0)
        async with site.door.client() as client:
            for _ in range(3):
                client.send(post())
                received = await site.servers[other].next_request()
                received.answer()
                await client.response()

        assert site.num_received[other] == 3


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/v1/responses"),
        (b"POST", b"/v1/messages"),
        (b"POST", b"/v1/embeddings"),
        (b"POST", b"/generate"),
        (b"POST", b"/rerank"),
        (b"POST", b"/an/endpoint/of/tomorrow?x=1"),
        (b"DELETE", b"/v1/responses/7"),
        (b"GET", b"/v1/models"),
        (b"GET", b"/props"),
    ],
)
async def test_every_endpoint_of_an_engine_passes(method, path):
    """
    Known to us or not, with its method and query.
    """
    async with Backends.opened(None) as site:
        site.client.send(b"%s %s HTTP/1.1\r\nhost: door\r\n\r\n" % (method, path))

        received = await site.servers[0].next_request()

        assert (received.method, received.target) == (method, path)
        received.answer(b"theirs", status=b"404 Not Found")
        response = await site.client.response()
        assert (response.status, response.body) == (404, b"theirs")


@pytest.mark.parametrize("path", [b"/v1/loads", b"/metrics", b"/admin/groups", b"/%61dmin/groups"])
async def test_our_own_questions_stay_ours(path):
    """
    No control plane runs here, so it says so.
    """
    async with Backends.opened(None) as site:
        site.client.send(get(path))

        response = await site.client.response()

        assert response.status in (403, 503)
        assert site.num_received == [0]


async def test_an_engine_that_refuses_is_left_for_another():
    """
    503, before a byte of an answer.
    """
    async with Backends.opened(None, None, method="round_robin") as site:
        site.client.send(post())
        first, second = (0, 1) if await _is_first(site, 0) else (1, 0)
        (await site.servers[first].next_request()).answer(status=b"503 Service Unavailable")

        (await site.servers[second].next_request()).answer(b"done")

        assert (await site.client.response()).body == b"done"


async def test_a_status_that_means_something_between_us_means_nothing_of_others():
    """
    421 is another life of a worker of ours; of an engine it is an answer.
    """
    async with Backends.opened(None, None) as site:
        site.client.send(post(extra=b"X-Data-Parallel-Rank: 0\r\n"))

        (await site.servers[0].next_request()).answer(b"mine", status=b"421 Misdirected Request")

        response = await site.client.response()
        assert (response.status, response.body) == (421, b"mine")


async def test_an_engine_that_died_is_no_candidate_until_it_is_back():
    """
    Its books were emptied by its requests' ends, and begin no new life.
    """
    async with Backends.opened(None, None) as site:
        site.client.send(post(extra=b"X-Data-Parallel-Rank: 0\r\n"))
        received = await site.servers[0].next_request()
        site.present(GroupState.DEAD, GroupState.READY)
        received.abort()
        assert (await site.client.response()).status == 502

        async with site.door.client() as client:
            client.send(post())
            (await site.servers[1].next_request()).answer()
            await soon(client.response())

            site.present(GroupState.READY, GroupState.READY)
            client.send(post(extra=b"X-Data-Parallel-Rank: 0\r\n"))
            (await site.servers[0].next_request()).answer()
            assert (await client.response()).status == 200
        assert [site.flying(rank) for rank in range(2)] == [NOTHING, NOTHING]


async def test_the_request_log_has_requests_with_prompts_alone(tmp_path):
    """
    An engine's other endpoints are no traffic to replay.
    """
    log = tmp_path / "requests.jsonl"
    async with Backends.opened(None, request_log=str(log)) as site:
        for request in (get(b"/v1/models"), post(b'{"prompt":"abcd"}', b"/v1/completions")):
            site.client.send(request)
            (await site.servers[0].next_request()).answer()
            await site.client.response()

    lines = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    assert [line["prompt_tokens"] for line in lines] == [1]


async def _is_first(site, rank):
    """Whether the only request so far went to that server."""
    await until(lambda: sum(site.num_received) == 1)
    return site.num_received[rank] == 1
