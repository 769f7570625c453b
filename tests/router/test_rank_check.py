"""Engines that heed the rank they are asked for, and others."""

import httpx
import orjson
import pytest

from router.backends.backend import BackendGroup, Kind, parse_backend
from router.backends.discovery import Discovery
from router.backends.rank_check import Heed, RankCheck

pytestmark = pytest.mark.anyio


class Engine:
    """Two ranks; `chooses` says which of them takes a request for a rank."""

    def __init__(self, chooses=lambda rank: rank):
        self.chooses = chooses
        self.counts = [5, 5]
        self.tells_rank = True
        self.status = 200
        self.num_asked = 0

    async def __call__(self, request):
        if request.url.path == "/metrics":
            lines = (
                f'{name}{{engine="{rank}",model_name="m"}} {count}.0\n'
                for rank, count in enumerate(self.counts)
                for name in ("vllm:prompt_tokens_total", "vllm:num_requests_running")
            )
            return httpx.Response(200, text="".join(lines))
        if request.url.path == "/get_server_info":
            return httpx.Response(404)
        if request.method != "POST":
            return httpx.Response(200, json={"data": [{"id": "m", "owned_by": "vllm"}]})
        self.num_asked += 1
        rank = self.chooses(int(request.headers["x-data-parallel-rank"]))
        assert orjson.loads(request.content).get("model", "m") == "m"
        if rank is not None:
            self.counts[rank] += 1
        told = {"dp_rank": rank} if self.tells_rank else {}
        return httpx.Response(self.status, json={"text": "", "meta_info": told})

    async def pause(self, _seconds):
        pass


async def heed(engine, kind):
    groups = [BackendGroup("a", 1, kind, rank) for rank in range(2)]
    async with httpx.AsyncClient(transport=httpx.MockTransport(engine)) as client:
        return await RankCheck(client, engine.pause).of(groups, "m")


@pytest.mark.parametrize("kind", [Kind.VLLM, Kind.SGLANG])
async def test_an_engine_that_heeds_every_rank_is_seen_to(kind):
    """
    One token on each.
    """
    engine = Engine()

    assert await heed(engine, kind) is Heed.YES
    assert engine.num_asked == 2


@pytest.mark.parametrize("kind", [Kind.VLLM, Kind.SGLANG])
async def test_an_engine_that_chooses_by_itself_is_seen_to(kind):
    """
    Though it met one of them by chance.
    """
    assert await heed(Engine(lambda _: 0), kind) is Heed.NO


async def test_nothing_is_seen_where_nothing_is_told():
    """
    No counter that grows, no rank in the answer, or no answer.
    """
    assert await heed(Engine(lambda _: None), Kind.VLLM) is Heed.UNSEEN
    silent, refusing = Engine(), Engine()
    silent.tells_rank, refusing.status = False, 401
    assert await heed(silent, Kind.SGLANG) is Heed.UNSEEN
    assert await heed(refusing, Kind.VLLM) is Heed.UNSEEN


@pytest.mark.parametrize(("chooses", "ranks"), [(lambda r: r, [0, 1]), (lambda _: 1, [None])])
async def test_an_engine_that_does_not_heed_ranks_is_one_group(chooses, ranks, caplog):
    """
    And that is said loudly.
    """
    engine = Engine(chooses)
    async with httpx.AsyncClient(transport=httpx.MockTransport(engine)) as client:
        found = await Discovery(client, engine.pause).groups([parse_backend("http://a:1")])

    assert [group.engine_rank for group in found[0].groups] == ranks
    assert ("it is ONE group" in caplog.text) is (ranks == [None])
