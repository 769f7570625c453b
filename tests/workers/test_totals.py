import asyncio
import json
import random

import httpx
import pytest

from tests.workers.scheduler_bench import Bench
from tests.workers.server_rig import serving
from workers.engine.totals import Totals
from workers.errors import StepFailed
from workers.lockstep.barrier_totals import BarrierTotals
from workers.model.checkpoint import open_checkpoint


def random_schedule(seed, num_pages):
    """Forks of two prompts that arrive while others run; all are served to their end."""
    chance = random.Random(seed)
    bench = Bench(num_pages=num_pages, budget=chance.choice([5, 9, 64]))
    trunks = [[chance.randint(1, 90) for _ in range(20)] for _ in range(2)]
    for request_id in range(40):
        kept = chance.choice(trunks)[: chance.randint(0, 20)]
        own = [chance.randint(1, 90) for _ in range(chance.randint(1, 8))]
        bench.add(request_id, kept + own, chance.randint(0, 16))
        for _ in range(chance.randint(0, 3)):
            bench.step()
    return bench.run()


@pytest.mark.parametrize("seed", range(20))
def test_preemption_counts_no_token_twice(seed):
    """
    On pages for a few only, requests are retracted again and again.

    Yet the prompts' tokens are cached or computed once, and the outputs are as
    many, as on pages for everybody, where nothing is computed twice.
    """
    tight, ample = random_schedule(seed, 12).scheduler, random_schedule(seed, 500).scheduler

    assert tight.totals.retractions > 0
    assert tight.totals.recomputed_tokens > 0
    assert (ample.totals.retractions, ample.totals.recomputed_tokens) == (0, 0)
    for totals in (tight.totals, ample.totals):
        assert totals.cached_tokens + totals.computed_tokens == totals.prompt_tokens
    assert tight.totals.prompt_tokens == ample.totals.prompt_tokens
    assert tight.totals.output_tokens == ample.totals.output_tokens


def test_who_is_under_way_is_in_no_total():
    """
    A request is added when it leaves, and then all of it.
    """
    bench = Bench()
    bench.add(1, [1] * 6, 3)
    bench.step()
    bench.step()

    assert bench.scheduler.totals == Totals()
    bench.run()
    assert bench.scheduler.totals == Totals(prompt_tokens=6, computed_tokens=6, output_tokens=3)


def test_whoever_leaves_early_is_counted_as_far_as_it_came():
    """
    What was never reached of an aborted or failed prompt is neither cached nor computed.
    """
    bench = Bench(budget=4)
    bench.add(1, [1] * 10)
    bench.step()
    bench.scheduler.abort(1)
    assert bench.scheduler.totals == Totals(prompt_tokens=10, computed_tokens=4)

    bench.add(2, [2] * 10)
    bench.scheduler.fail(bench.scheduler.plan(), StepFailed(ValueError("by chance")))
    bench.add(3, [3] * 5)
    bench.scheduler.abort(3)

    assert bench.scheduler.totals == Totals(prompt_tokens=25, computed_tokens=4)


def test_totals_are_told_as_the_answers_usage_has_them(tiny_llama):
    """
    Of one completion; a refused one adds nothing.
    """

    async def run():
        async with serving(open_checkpoint(tiny_llama).tokenizer()) as (_, client):
            body = {"prompt": [40, 41, 42], "max_tokens": 4}
            usage = (await client.post("/v1/completions", json=body)).json()["usage"]
            refused = await client.post("/v1/completions", json=body | {"max_tokens": 999})
            assert refused.status_code == httpx.codes.BAD_REQUEST
            return usage, (await client.get("/totals")).json()

    usage, told = asyncio.run(run())

    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 4)
    assert told == Totals(prompt_tokens=3, computed_tokens=3, output_tokens=4)._asdict()


def test_the_leader_that_knows_tells_what_the_barrier_costs_with_its_totals(tiny_llama):
    """
    Others say nothing of it.
    """
    barrier = BarrierTotals(2)

    async def asked(**options):
        async with serving(open_checkpoint(tiny_llama).tokenizer(), **options) as (_, client):
            return (await client.get("/totals")).json()

    told = asyncio.run(asked(barrier=barrier.read))

    assert told["barrier"] == json.loads(json.dumps(barrier.read().as_dict()))
    assert told["prompt_tokens"] == 0
    assert "barrier" not in asyncio.run(asked())
