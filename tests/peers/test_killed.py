"""An engine that is killed in the middle of a stream, and started again."""

import asyncio

import openai
import pytest

from tests.e2e.instance import eventually
from tests.peers.drive import Asked, seen_of
from tests.peers.engines import CONTEXT, MODEL


@pytest.mark.parametrize("site", ["llamacpp", "mixed"], indirect=True)
def test_requests_go_elsewhere_while_an_engine_is_dead_and_it_comes_back(site):
    """
    The stream that it was at ends with an error; what comes after it is not lost.
    """
    victim = site.engines[-1]
    lost = [rank for rank, place in enumerate(site.places) if place.engine is victim]
    others = set(range(len(site.places))) - set(lost)

    with pytest.raises(openai.APIError):
        asyncio.run(stream_until_killed(site.door.url, victim, lost[-1]))
    seen = seen_of(site.door.url, [Asked(4)] * 12)

    assert {each.dp_rank for each in seen} <= others
    eventually(lambda: states(site, lost) == {"dead"}, "it is dead")
    victim.start()
    eventually(lambda: states(site, lost) == {"ready"}, "it is back")
    again = seen_of(site.door.url, [Asked(4, dp_rank=rank) for rank in lost])
    assert [each.dp_rank for each in again] == lost
    site.rested()


def states(site, ranks):
    return {load["state"] for load in site.door.loads() if load["dp_rank"] in ranks}


async def stream_until_killed(url, victim, dp_rank):
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        await client.completions.create(
            model=MODEL,
            prompt="level",
            max_tokens=CONTEXT - 100,
            stream=True,
            extra_body={"ignore_eos": True},
            extra_headers={"X-Data-Parallel-Rank": str(dp_rank)},
        ) as stream,
    ):
        num_events = 0
        async for _ in stream:
            num_events += 1
            if num_events == 3:
                await asyncio.to_thread(victim.kill)
