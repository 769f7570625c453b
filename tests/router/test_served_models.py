"""Requests that name a model: who gets them where there are several engines."""

import orjson
import pytest

from router.backends.backend import Kind
from shm.group_table import GroupState
from tests.router.backends import Backends
from tests.router.clients import get, post

pytestmark = pytest.mark.anyio
READY, DEAD = GroupState.READY, GroupState.DEAD


async def ask(site, model, **fields):
    site.client.send(post(orjson.dumps({"model": model, "prompt": "x"} | fields)))
    return await site.client.response()


def opened(*ranks, models, kind=Kind.VLLM):
    return _Opened(ranks, models, kind)


class _Opened:
    """Backends that answer, with lists of models."""

    def __init__(self, ranks, models, kind):
        self._site = Backends.opened(*ranks, kind=kind, respond=lambda r: r.answer())
        self._models = models

    async def __aenter__(self):
        site = await self._site.__aenter__()
        site.present(models=self._models)
        return site

    async def __aexit__(self, *error):
        return await self._site.__aexit__(*error)


async def test_a_model_that_nobody_has_is_unknown_and_what_there_is_is_told():
    """
    In OpenAI's form, and no engine is asked.
    """
    async with opened((0, 1), None, models=[("b", "lora"), ("b", "lora"), ("a",)]) as site:
        answer = await ask(site, "c")

        assert answer.status == 404
        assert answer.error == {
            "message": "the model 'c' does not exist; there are a, b, lora",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        assert site.num_received == [0, 0]


@pytest.mark.parametrize("ranks", [[None], [(0, 1)]])
async def test_one_engine_says_it_in_its_own_words(ranks):
    """
    However many ranks it has.
    """
    models = [("a",)] * (2 if ranks[0] else 1)
    async with opened(*ranks, models=models) as site:
        assert (await ask(site, "c")).status == 200


async def test_an_engine_whose_models_are_not_known_may_have_any():
    """
    It is asked, and nobody else.
    """
    async with opened(None, None, models=[("a",), ()]) as site:
        for _ in range(3):
            assert (await ask(site, "c")).status == 200

        assert site.num_received == [0, 3]


async def test_sglang_serves_what_it_is_asked_for():
    """
    It does not look at the name.
    """
    async with opened(None, None, models=[("a",), ("b",)], kind=Kind.SGLANG) as site:
        assert (await ask(site, "default")).status == 200


async def test_an_adapter_that_is_asked_for_behind_a_colon_is_its_models():
    """
    The longest name that is listed counts.
    """
    async with opened(None, None, models=[("s3://a",), ("s3://a:b",)], kind=Kind.SGLANG) as site:
        await ask(site, "s3://a:adapter")
        await ask(site, "s3://a:b:adapter")

        assert site.num_received == [1, 1]
        bodies = [orjson.loads(server.received[0].body)["model"] for server in site.servers]
        assert bodies == ["s3://a:adapter", "s3://a:b:adapter"]


@pytest.mark.parametrize("model", [None, 5, ["a"]])
async def test_what_is_no_name_passes(model):
    """
    The engine refuses it, or does not need it.
    """
    async with opened(None, None, models=[("a",), ("b",)]) as site:
        assert (await ask(site, model)).status == 200


async def test_a_request_without_a_model_passes():
    """
    Most paths of an engine know none.
    """
    async with opened(None, None, models=[("a",), ("b",)]) as site:
        site.client.send(get(b"/version"))

        assert (await site.client.response()).status == 200


async def test_a_model_whose_engine_cannot_take_a_request_is_not_unknown():
    """
    503, with the name and who has it; another engine is not asked.
    """
    async with opened(None, None, models=[("a",), ("b",)]) as site:
        site.present(DEAD, READY, models=[("a",), ("b",)])

        answer = await ask(site, "a")

        assert answer.status == 503
        assert answer.error["code"] == "model_unavailable"
        assert "'a' is served by DP groups 0 (dead);" in answer.error["message"]
        assert answer.header(b"retry-after") == b"1"
        assert site.num_received == [0, 0]


async def test_who_asks_for_a_group_gets_that_group():
    """
    Which refuses the model itself.
    """
    async with opened(None, None, models=[("a",), ("b",)]) as site:
        body = orjson.dumps({"model": "c", "prompt": "x"})
        site.client.send(post(body, extra=b"X-Data-Parallel-Rank: 1\r\n"))

        assert (await site.client.response()).status == 200
        assert site.num_received == [0, 1]
