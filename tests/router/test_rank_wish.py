"""A body of SGLang that names a DP rank: our choice and the client's are the same."""

import orjson
import pytest

from router.backends.backend import Kind
from tests.router.backends import Backends
from tests.router.clients import post

pytestmark = pytest.mark.anyio


async def ask(site, fields, path=b"/v1/completions", extra=b""):
    body = orjson.dumps({"prompt": "x"} | fields)
    site.client.send(post(body, path, extra=extra))
    return await site.client.response(), body


def opened(*ranks, kind=Kind.SGLANG):
    return Backends.opened(*ranks, kind=kind, respond=lambda r: r.answer())


@pytest.mark.parametrize("path", [b"/v1/completions", b"/generate"])
@pytest.mark.parametrize("name", ["routed_dp_rank", "data_parallel_rank"])
@pytest.mark.parametrize("rank", [2, "2"])
async def test_the_rank_in_a_body_is_the_rank_that_is_chosen(path, name, rank):
    """
    By header and body alike, on whichever path; the body goes as it came.
    """
    async with opened((0, 1, 2)) as site:
        for _ in range(4):
            answer, body = await ask(site, {name: rank}, path)

            assert answer.header(b"x-levelhead-dp-rank") == b"2"
            received = site.servers[0].received[-1]
            assert received.header(b"x-data-parallel-rank") == [b"2"]
            assert received.body == body


async def test_the_newer_name_counts():
    """
    As in SGLang.
    """
    async with opened((0, 1)) as site:
        fields = {"data_parallel_rank": 0, "routed_dp_rank": 1}

        assert (await ask(site, fields))[0].header(b"x-levelhead-dp-rank") == b"1"


async def test_a_rank_is_one_of_an_engine_and_there_may_be_several_engines():
    """
    Rank 1 of either.
    """
    async with opened((0, 1), (0, 1)) as site:
        found = {(await ask(site, {"routed_dp_rank": 1}))[0].header(b"x-levelhead-dp-rank")
                 for _ in range(6)}  # fmt: skip

        assert found == {b"1", b"3"}


async def test_a_rank_that_no_engine_has_is_refused():
    """
    The engine would not: it does not look at the field where there is a header.
    """
    async with opened((0, 1)) as site:
        answer, _ = await ask(site, {"routed_dp_rank": 7})

        assert (answer.status, answer.error["param"]) == (400, "routed_dp_rank")
        assert answer.error["message"] == "routed_dp_rank is 7; the engines' DP ranks are 0, 1"
        assert site.num_received == [0]


async def test_a_rank_that_contradicts_the_group_that_is_asked_for_is_refused():
    """
    One of them would be ignored; one that agrees is not.
    """
    async with opened((0, 1)) as site:
        header = b"X-Data-Parallel-Rank: 0\r\n"
        assert (await ask(site, {"routed_dp_rank": 0}, extra=header))[0].status == 200

        answer, _ = await ask(site, {"routed_dp_rank": 1}, extra=header)

        assert answer.status == 400
        assert (
            "routed_dp_rank is 1, but X-Data-Parallel-Rank asks for DP group 0"
            in (answer.error["message"])
        )


@pytest.mark.parametrize("value", [None, True, "one", 1.5, [1]])
async def test_what_is_no_rank_is_the_engines_to_refuse(value):
    """
    Or to ignore.
    """
    async with opened((0, 1)) as site:
        assert (await ask(site, {"routed_dp_rank": value}))[0].status == 200


async def test_other_engines_know_no_such_field():
    """
    Nor has one that is a single group ranks of ours to choose.
    """
    async with opened((0, 1), kind=Kind.VLLM) as site:
        assert (await ask(site, {"routed_dp_rank": 7}))[0].status == 200
    async with opened(None) as site:
        assert (await ask(site, {"routed_dp_rank": 7}))[0].status == 200
