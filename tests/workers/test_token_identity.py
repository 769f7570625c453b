"""What the engine computes, whatever the schedule, is what computing afresh gives."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.fakes import make_request
from workers.engine.batch import BatchBuilder
from workers.engine.forward_thread import ForwardThread, SameThread
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.waiting import Order, SchedulePolicy
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.llama import KVCache
from workers.model.sampling import Sampler, SamplingParams

CPU = torch.device("cpu")
NUM_OUTPUTS = 8
MAX_TOKENS = 96
GREEDY = SamplingParams(temperature=0)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)
SEED = 5
TRUNK = [(k * k * 7 + k * 11) % 500 + 3 for k in range(64)]

pytestmark = pytest.mark.usefixtures("one_thread")


class Oracle:
    """Outputs of a prompt when the whole sequence is computed afresh for each token."""

    def __init__(self, model):
        self._model = model
        self._known = {}

    def outputs(self, prompt, params):
        key = tuple(prompt), params
        if key not in self._known:
            self._known[key] = self._recompute(prompt, params)
        return self._known[key]

    def _recompute(self, prompt, params):
        tokens, sampler = list(prompt), Sampler(0)
        for _ in range(NUM_OUTPUTS):
            kv = KVCache.allocate(self._model.config, len(tokens), CPU, torch.float32)
            every = torch.arange(len(tokens))
            span = SequenceSpan(len(tokens), len(tokens), every)
            batch = ForwardBatch(torch.tensor(tokens), every, every, (span,), every[-1:])
            with torch.inference_mode():
                logits = self._model(batch, kv)
            tokens += sampler.sample(logits, [params], [len(tokens)], [SEED]).token_ids
        return tokens[len(prompt) :]

    def prompts(self, params):
        """Prompts of which many begin alike; some with what the engine itself answers."""
        starts = [TRUNK[:n] for n in (1, 16, 17, 33, 64)]
        answered = [[*s, *self.outputs(s, params)] for s in starts]
        forks = [[*s, 400 + i, 9, 31][:80] for i, s in enumerate([*starts, *answered])]
        return [*starts, *answered, *forks]


@pytest.fixture(name="oracle", scope="module")
def _oracle(model):
    return Oracle(model)


def make_engine(model, cache, order, page_size, num_pages, limits, lane=None):
    pool = PagePool(num_pages, page_size)
    scheduler = Scheduler(limits, pool, cache, order, GrowthEstimate(initial=0.0))
    kv = KVCache.allocate(model.config, pool.capacity_tokens, CPU, torch.float32)
    batches = BatchBuilder(MAX_TOKENS, page_size, CPU)
    runner = ModelRunner(model, kv, batches, Sampler(0), 1, lane)
    runner.warm_up()
    return scheduler, runner


def step(scheduler, runner):
    plan = scheduler.plan()
    assert not plan.failed
    wait = runner.launch(plan)
    if runner.looks_ahead:
        runner.prepare(scheduler.foresee(plan))
    scheduler.commit(plan, wait())
    scheduler.check_integrity()
    runner.check_integrity()


def random_requests(draw, prompts, params):
    numbers = draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, max_size=10))
    for request_id, number in enumerate(numbers):
        limit = draw(st.sampled_from([None, None, 0, 20]))
        request = make_request(request_id, prompts[number], NUM_OUTPUTS, prefix_limit=limit)
        request.params, request.seed = params, SEED
        yield request


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_tokens_are_those_of_computing_each_sequence_afresh(model, oracle, params, data):
    """
    Chunked, batched, with cached prefixes or none, forked, retracted and resumed, with overlap
    and without.
    """
    page_size = data.draw(st.sampled_from([1, 4, 16]))
    num_pages = (MAX_TOKENS + data.draw(st.integers(0, 200))) // page_size
    cache = data.draw(st.sampled_from([RadixCache(page_size), NoCache()]))
    order = Order(data.draw(st.sampled_from(SchedulePolicy)), data.draw(st.integers(0, 3)))
    limits = Limits(data.draw(st.integers(1, 5)), 10, data.draw(st.integers(5, 90)))
    lane = data.draw(st.sampled_from([SameThread, ForwardThread]))()
    scheduler, runner = make_engine(model, cache, order, page_size, num_pages, limits, lane)
    requests = []
    for request in random_requests(data.draw, oracle.prompts(params), params):
        requests.append(request)
        scheduler.add(request)
        for _ in range(data.draw(st.integers(0, 6))):
            step(scheduler, runner)
        running = [r for r in requests if r.state is State.RUNNING]
        if running and data.draw(st.booleans()):
            scheduler._retract(data.draw(st.sampled_from(running)))
    while not scheduler.is_idle:
        step(scheduler, runner)

    for request in requests:
        assert request.output_ids == oracle.outputs(request.prompt_ids, params)


def test_what_is_kept_of_one_request_is_not_taken_for_anothers(model, oracle):
    """
    One decodes alone and ends; in the next pass another, whose prompt is cached but for its
    last token, decodes alone and is a token longer.
    """
    scheduler, runner = make_engine(
        model, RadixCache(1), Order(SchedulePolicy.FCFS), 1, 200, Limits(1, 10, 512)
    )
    decoding = [7, 5, *range(30, 54 - NUM_OUTPUTS - 2)]  # its last pass has 23 tokens
    requests = [
        make_request(number, prompt, NUM_OUTPUTS)
        for number, prompt in enumerate([TRUNK[:24], decoding, TRUNK[:24]])
    ]
    for request in requests:
        request.params, request.seed = GREEDY, SEED
        scheduler.add(request)
    while not scheduler.is_idle:
        step(scheduler, runner)

    assert requests[2].account.num_cached == 23
    for request in requests:
        assert request.output_ids == oracle.outputs(request.prompt_ids, GREEDY)


@pytest.mark.parametrize("limit", [None, 0], ids=["one computes", "all compute"])
def test_many_equal_prompts_in_one_batch(model, oracle, limit):
    """
    Whether the others wait for the first or compute beside it, all get the same tokens.
    """
    limits = Limits(8, 8, 512)
    scheduler, runner = make_engine(model, RadixCache(4), Order(), 4, 200, limits)
    requests = [
        make_request(i, TRUNK[:33], NUM_OUTPUTS, prefix_limit=limit, seed=SEED) for i in range(8)
    ]
    for request in requests:
        request.params = SAMPLED
        scheduler.add(request)
    num_pages_used = []
    while not scheduler.is_idle:
        step(scheduler, runner)
        num_pages_used.append(scheduler.pool.num_pages - scheduler.pool.num_free)

    expected = oracle.outputs(TRUNK[:33], SAMPLED)
    assert all(request.output_ids == expected for request in requests)
    assert max(num_pages_used) <= 8 + 8 * 3, "one set of pages for the prompt"
