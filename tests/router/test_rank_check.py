"""Engines that heed the rank they are asked for, and others."""

import itertools

import httpx
import orjson
import pytest

from router.backends.backend import BackendGroup, Kind, parse_backend
from router.backends.discovery import Discovery
from router.backends.rank_check import Heed, RankCheck

pytestmark = pytest.mark.anyio


class Engine:
    """Two ranks; `chooses` says which of them takes a completion for a rank."""

    def __init__(self, chooses=lambda rank: rank):
        self.chooses = chooses
        self.counts = [5, 5]
        self.status = 200
        self.asked = []

    async def __call__(self, request):
        if request.url.path == "/metrics":
            lines = (
                f'vllm:{name}{{engine="{rank}",model_name="m"}} {count}.0\n'
                f'sglang:realtime_tokens_total{{dp_rank="{rank}",mode="prefill"}} {count}.0\n'
                for rank, count in enumerate(self.counts)
                for name in ("prompt_tokens_total", "num_requests_running")
            )
            return httpx.Response(200, text="".join(lines))
        if request.url.path == "/get_server_info":
            return httpx.Response(404)
        if request.method != "POST":
            return httpx.Response(200, json={"data": [{"id": "m", "owned_by": "vllm"}]})
        assert request.url.path == "/v1/completions"  # native paths do not read the header
        self.asked.append(int(request.headers["x-data-parallel-rank"]))
        rank = self.chooses(self.asked[-1])
        assert orjson.loads(request.content)["model"] == "m"
        if rank is not None:
            self.counts[rank] += 1
        return httpx.Response(self.status, json={"choices": []})

    async def pause(self, _seconds):
        pass


async def heed(engine, kind):
    groups = [BackendGroup("a", 1, kind, rank) for rank in range(2)]
    async with httpx.AsyncClient(transport=httpx.MockTransport(engine)) as client:
        return await RankCheck(client, engine.pause).of(groups, "m")


@pytest.mark.parametrize("kind", [Kind.VLLM, Kind.SGLANG])
async def test_an_engine_that_heeds_every_rank_is_seen_to(kind):
    """
    One token on each, twice.
    """
    engine = Engine()

    assert await heed(engine, kind) is Heed.YES
    assert engine.asked == [0, 0, 1, 1]


@pytest.mark.parametrize("kind", [Kind.VLLM, Kind.SGLANG])
async def test_an_engine_that_chooses_by_itself_is_seen_to(kind):
    """
    Though it met one of them by chance.
    """
    assert await heed(Engine(lambda _: 0), kind) is Heed.NO


@pytest.mark.parametrize("kind", [Kind.VLLM, Kind.SGLANG])
async def test_an_engine_that_takes_turns_is_seen_to(kind):
    """
    Though its turn is that of the rank that is asked first.  No more is asked then.
    """
    turns = itertools.cycle(range(2))
    engine = Engine(lambda _: next(turns))

    assert await heed(engine, kind) is Heed.NO
    assert engine.asked == [0, 0]


async def test_nothing_is_seen_where_nothing_is_told():
    """
    No counter that grows, or no answer.  No more is asked then.
    """
    silent, refusing = Engine(lambda _: None), Engine()
    refusing.status = 401
    assert await heed(silent, Kind.SGLANG) is Heed.UNSEEN
    assert await heed(refusing, Kind.VLLM) is Heed.UNSEEN
    assert (silent.asked, refusing.asked) == ([0], [0])


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
