import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.fakes import make_request
from workers.engine.batch import BatchBuilder, SlotRow
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.request import Request
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.llama import KVCache
from workers.model.sampling import Sampler, SamplingParams

CPU = torch.device("cpu")
NUM_OUTPUTS = 10
PROMPTS = {
    i: [(i * 37 + k * 11) % 500 + 3 for k in range(n)] for i, n in enumerate((3, 40, 17, 1, 64))
}
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11)
GREEDY = SamplingParams(temperature=0)

pytestmark = pytest.mark.usefixtures("one_thread")


def recompute(model, prompt, params, seed):
    """A request's output when the whole sequence is computed afresh for each token."""
    tokens, sampler = list(prompt), Sampler(0)
    for _ in range(NUM_OUTPUTS):
        kv = KVCache.allocate(model.config, len(tokens), CPU, torch.float32)
        everything = torch.arange(len(tokens))
        span = SequenceSpan(len(tokens), len(tokens), everything)
        batch = ForwardBatch(torch.tensor(tokens), everything, everything, (span,), everything[-1:])
        drawn = sampler.sample(model(batch, kv), [params], [len(tokens)], [seed])
        tokens += drawn.token_ids
    return tokens[len(prompt) :]


@pytest.fixture(name="expected", scope="module")
def _expected(model):
    return {
        params: {i: recompute(model, prompt, params, i) for i, prompt in PROMPTS.items()}
        for params in (GREEDY, SAMPLED)
    }


def serve(model, params, *, num_pages, page_size, budget, max_running):
    """Every prompt's output from the engine, and how many requests were retracted."""
    pool = PagePool(num_pages, page_size)
    scheduler = Scheduler(Limits(max_running, 10, budget), pool, growth=GrowthEstimate(initial=0.0))
    kv = KVCache.allocate(model.config, pool.capacity_tokens, CPU, torch.float32)
    runner = ModelRunner(model, kv, BatchBuilder(128, page_size, CPU), Sampler(0), 1)
    requests = {i: make_request(i, p, NUM_OUTPUTS) for i, p in PROMPTS.items()}
    for request in requests.values():
        request.params = params
        scheduler.add(request)
    while not scheduler.is_idle:
        plan = scheduler.plan()
        assert not plan.failed
        scheduler.commit(plan, runner.run(plan))
    return {i: r.output_ids for i, r in requests.items()}, scheduler.totals.retractions


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    page_size=st.sampled_from([1, 4, 16]),
    budget=st.integers(3, 80),
    max_running=st.integers(1, 5),
    spare_tokens=st.integers(0, 64),
)
def test_outputs_are_those_of_computing_each_sequence_afresh(
    model, expected, params, page_size, budget, max_running, spare_tokens
):
    """
    Whatever is chunked, batched or retracted, and however pages are laid out.
    """
    num_pages = -(-(64 + NUM_OUTPUTS + spare_tokens) // page_size)

    outputs, _ = serve(
        model, params,
        num_pages=num_pages, page_size=page_size, budget=budget, max_running=max_running,
    )  # fmt: skip

    assert outputs == expected[params]


def test_a_retracted_request_goes_on_with_the_same_tokens(model, expected):
    """
    The case above, on a cache so small that requests are certainly retracted.
    """
    outputs, num_retracted = serve(
        model, SAMPLED, num_pages=19, page_size=4, budget=64, max_running=5
    )

    assert num_retracted > 0
    assert outputs == expected[SAMPLED]


def test_a_slot_row_follows_its_page_table():
    """
    It grows with the table, and starts over if the table was replaced meanwhile.
    """
    row = SlotRow(max_tokens=6, page_size=2, device=CPU)

    row.update([3, 1])
    assert row.slots(0, 4).tolist() == [6, 7, 2, 3]
    row.update([3, 1, 0])
    assert row.slots(1, 6).tolist() == [7, 2, 3, 0, 1]
    row.update([3, 2, 1])
    assert row.slots(0, 6).tolist() == [6, 7, 4, 5, 2, 3]


def test_tokens_are_cut_from_prompt_and_outputs():
    """
    A chunk may begin in the prompt and end in outputs that are computed again.
    """
    request: Request = make_request(1, [10, 11, 12])
    request.output_ids = [20, 21]

    assert request.tokens(1, 5) == [11, 12, 20, 21]
    assert request.tokens(0, 2) == [10, 11]
    assert request.tokens(4, 5) == [21]


def test_warming_up_leaves_no_trace(model, expected):
    """
    The slot that it writes is written again before anybody reads it.
    """
    pool = PagePool(4, 4)
    kv = KVCache.allocate(model.config, pool.capacity_tokens, CPU, torch.float32)
    runner = ModelRunner(model, kv, BatchBuilder(16, 4, CPU), Sampler(0), 1)
    runner.warm_up()
    scheduler = Scheduler(Limits(1, 1, 8), pool)
    request = make_request(0, PROMPTS[0], NUM_OUTPUTS)
    request.params = GREEDY
    scheduler.add(request)
    while not scheduler.is_idle:
        plan = scheduler.plan()
        scheduler.commit(plan, runner.run(plan))

    assert request.output_ids == expected[GREEDY][0]
