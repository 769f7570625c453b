"""Log-probabilities of prompt tokens, whatever was cached, chunked or retracted."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.fakes import make_request
from tests.workers.scheduler_bench import Bench
from workers.engine.batch import BatchBuilder
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.errors import BrokenLogits
from workers.model.llama import KVCache
from workers.model.sampling import Sampler, SamplingParams, prompt_logprobs

CPU = torch.device("cpu")
PROMPT = [(k * k * 7 + k * 11) % 500 + 3 for k in range(37)]
NUM_TOP = 3
GREEDY = SamplingParams(temperature=0, logprobs=NUM_TOP)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(name="afresh", scope="module")
def _afresh(model):
    """Of each position from 1 on, out of one pass over the whole prompt."""
    every = torch.arange(len(PROMPT))
    kv = KVCache.allocate(model.config, len(PROMPT), CPU, torch.float32)
    span = SequenceSpan(len(PROMPT), len(PROMPT), every)
    logits = model(ForwardBatch(torch.tensor(PROMPT), every, every, (span,), every), kv)
    logprobs = logits.log_softmax(dim=-1)
    return [
        (
            PROMPT[position],
            logprobs[position - 1, PROMPT[position]].item(),
            *zip(
                *(t.tolist() for t in reversed(logprobs[position - 1].topk(NUM_TOP))), strict=True
            ),
        )
        for position in range(1, len(PROMPT))
    ]


def make_engine(model, cache, page_size, num_pages, budget):
    pool = PagePool(num_pages, page_size)
    scheduler = Scheduler(Limits(3, 10, budget), pool, cache, growth=GrowthEstimate(initial=0.0))
    kv = KVCache.allocate(model.config, pool.capacity_tokens, CPU, torch.float32)
    return scheduler, ModelRunner(model, kv, BatchBuilder(96, page_size, CPU), Sampler(0), 1)


def drain(scheduler, runner, on_step=lambda: None):
    outputs = []
    while not scheduler.is_idle:
        plan = scheduler.plan()
        outputs += scheduler.commit(plan, runner.run(plan))
        scheduler.check_integrity()
        on_step()
    return outputs


@pytest.fixture(name="outputs", scope="module")
def _outputs(model):
    """Of the prompt alone, without a cache, without log-probabilities."""
    scheduler, runner = make_engine(model, NoCache(), 4, 40, 64)
    request = make_request(1, PROMPT, 3, params=SamplingParams(temperature=0))
    scheduler.add(request)
    drain(scheduler, runner)
    return request.output_ids


def assert_equal(found, expected):
    assert [each.token_id for each in found] == [each[0] for each in expected]
    for each, (_, logprob, *top) in zip(found, expected, strict=True):
        assert each.logprob == pytest.approx(logprob, abs=2e-5)
        assert [token for token, _ in each.top] == [token for token, _ in top]
        assert [p for _, p in each.top] == pytest.approx([p for _, p in top], abs=2e-5)


@pytest.mark.parametrize("start", [0, 1, 2, 15, 16, 17, 18, 32, 33, 34, 35, 36, 37])
@pytest.mark.parametrize("budget", [5, 16, 64], ids=["small chunks", "pages", "whole"])
def test_log_probabilities_after_a_cached_prefix_equal_those_without(model, afresh, start, budget):
    """
    All that were asked for exist, and nothing was computed that the cache could give.
    """
    scheduler, runner = make_engine(model, RadixCache(4), 4, 40, budget)
    for request_id in (1, 2):
        request = make_request(
            request_id, PROMPT, 2, params=GREEDY, logprob_start=start if request_id == 2 else None
        )
        scheduler.add(request)
        outputs = drain(scheduler, runner)

    assert_equal(outputs[0].prompt_logprobs, afresh[max(0, start - 1) :])
    assert [output.prompt_logprobs for output in outputs[1:]] == [()]
    assert request.account.num_cached == min(len(PROMPT) - 1, max(0, start - 1)) // 4 * 4


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_log_probabilities_are_neither_lost_nor_doubled(model, afresh, outputs, data):
    """
    Retracted in the middle of its prompt or later, with a cache or none, beside others.
    """
    page_size = data.draw(st.sampled_from([1, 4, 16]))
    cache = data.draw(st.sampled_from([RadixCache(page_size), NoCache()]))
    budget = data.draw(st.integers(5, 50))
    scheduler, runner = make_engine(model, cache, page_size, 96 // page_size, budget)
    starts = data.draw(st.lists(st.integers(0, len(PROMPT)), min_size=1, max_size=4))
    num_outputs = data.draw(st.integers(0, 3))
    is_retracted = iter(data.draw(st.lists(st.booleans(), max_size=12)))
    requests = {
        i: make_request(i, PROMPT, num_outputs, params=GREEDY, logprob_start=start)
        for i, start in enumerate(starts)
    }
    for request in requests.values():
        scheduler.add(request)

    def retract():
        running = [r for r in requests.values() if r.state is State.RUNNING]
        if running and next(is_retracted, False):
            scheduler._retract(running[0])

    told = drain(scheduler, runner, retract)

    for i, start in enumerate(starts):
        first, *others = [output for output in told if output.request_id == i]
        assert_equal(first.prompt_logprobs, afresh[max(0, start - 1) :])
        assert not any(output.prompt_logprobs for output in others)
        assert requests[i].output_ids == outputs[:num_outputs]


def test_only_positions_that_are_asked_for_have_logits():
    """
    Each in the chunk that ends before it or holds it; the last chunk samples besides.
    """
    bench = Bench(budget=4)
    bench.add(1, range(10), logprob_start=3)
    wanted = []
    while not bench.scheduler.is_idle:
        plan = bench.scheduler.plan()
        wanted += [chunk.output_positions for chunk in plan.chunks]
        bench.scheduler.commit(plan, bench.runner.run(plan))

    assert wanted == [[2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_request_for_no_output_gets_those_of_its_prompt():
    """
    With its end, which comes in one output.
    """
    bench = Bench()
    bench.add(1, range(10), max_new_tokens=0, logprob_start=0)

    plan = bench.scheduler.plan()
    [output] = bench.scheduler.commit(plan, bench.runner.run(plan))

    assert [each.token_id for each in output.prompt_logprobs] == list(range(1, 10))
    assert (output.token_id, output.is_last) == (None, True)


def test_more_rows_than_fit_at_once_are_taken_some_at_a_time():
    """
    The result is that of all at once; a row without a finite logit is refused.
    """
    logits = torch.randn(600, 7, generator=torch.Generator().manual_seed(1))
    tokens = [row % 7 for row in range(600)]

    found = prompt_logprobs(logits, tokens, 0)

    expected = logits.log_softmax(-1)[torch.arange(600), torch.tensor(tokens)].tolist()
    assert [each.logprob for each in found] == pytest.approx(expected)
    logits[580, 3] = torch.nan
    with pytest.raises(BrokenLogits):
        prompt_logprobs(logits, tokens, 0)
