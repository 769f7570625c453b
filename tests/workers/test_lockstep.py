"""Ranks that step together: their tokens are those of one that has the whole model."""

import dataclasses
import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.fakes import make_report, make_request
from tests.workers.test_families import FAMILIES, reference
from tests.workers.test_token_identity import GREEDY, MAX_TOKENS, NUM_OUTPUTS, SEED, Oracle
from tests.workers.thread_ranks import WAIT_NS, NoBell, Reported, ThreadRanks
from tests.workers.tiny import write_tiny_llama
from workers.engine.batch import BatchBuilder
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.waiting import Order
from workers.errors import PassFailed, RankLost
from workers.lockstep.row import Timing
from workers.lockstep.runner import LockstepRunner, Ranks
from workers.model.checkpoint import open_checkpoint
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel
from workers.model.sampling import Sampler
from workers.model.shard import WHOLE, Shard

CPU = torch.device("cpu")
PAGE_SIZE = 4
PROMPTS = [[(k * k * 7 + k * 11) % 100 + 3 for k in range(n)] for n in (1, 5, 16, 33, 64)]
PROMPTS += [[*prompt, 9, 31] for prompt in PROMPTS]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(name="folder", scope="module", params=["llama", "deepseek_v3", "qwen2_moe"])
def _folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        return write_tiny_llama(folder)
    reference(request.param, FAMILIES[request.param]).save_pretrained(folder)
    return folder


@functools.cache
def load(folder, shard=WHOLE, is_expert_parallel=False, attention_shard=WHOLE):
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if config.experts is not None:
        experts = dataclasses.replace(config.experts, is_expert_parallel=is_expert_parallel)
        config = dataclasses.replace(config, experts=experts)
    model = LlamaModel(config, CPU, torch.float32, shard, attention_shard)
    model.load(checkpoint)
    return model


@functools.cache
def oracle(folder):
    return Oracle(load(folder))


def make_inner(model, num_pages, attention_shard=WHOLE):
    slots = num_pages * PAGE_SIZE
    kv = KVCache.allocate(model.config, slots, CPU, torch.float32, attention_shard)
    return ModelRunner(model, kv, BatchBuilder(MAX_TOKENS, PAGE_SIZE, CPU), Sampler(0), 1)


class Group:
    """One DP group: a scheduler and a runner in lock step.  arrivals: by the round they come in."""

    def __init__(
        self, model, collectives, arrivals, limits, num_pages, retractions=(), attention=None
    ):
        pool = PagePool(num_pages, PAGE_SIZE)
        cache = RadixCache(PAGE_SIZE)
        self.scheduler = Scheduler(limits, pool, cache, Order(), GrowthEstimate(initial=0.0))
        heads = WHOLE if attention is None else Shard(attention.rank, attention.size)
        inner = make_inner(model, num_pages, heads)
        self.bell, self.reports = NoBell(), Reported()
        ranks = Ranks(
            collectives, collectives, self.bell, self.reports, 1, attention, plans=attention
        )
        self.runner = LockstepRunner(inner, ranks)
        self.arrivals, self.retractions = arrivals, retractions
        self.requests, self.num_rounds = [], 0

    def run(self):
        """Step until nobody has anything to do, and all groups see that in the same round."""
        self.runner.warm_up(lambda: None)
        last = max(self.arrivals, default=0)
        while self._round() or self.num_rounds <= last:
            pass
        self.runner.leave()
        return self

    def _round(self):
        for request in self.arrivals.get(self.num_rounds, ()):
            self.requests.append(request)
            self.scheduler.add(request)
        running = [r for r in self.requests if r.state is State.RUNNING]
        if running and self.num_rounds in self.retractions:
            self.scheduler._retract(running[0])
        self.num_rounds += 1
        plan = self.scheduler.plan()
        assert not plan.failed
        if not plan.chunks:
            return self.runner.rest()
        self.scheduler.commit(plan, self.runner.launch(plan)())
        self.scheduler.check_integrity()
        return True


def run_groups(folder, size, arrivals, is_expert_parallel=False, limits=None, **more):
    """Run a group for each of arrivals, in as many threads; all take as many rounds."""
    last = max((round for each in arrivals for round in each), default=0)

    def main(collectives):
        rank = collectives.rank
        model = load(folder, Shard(rank, size), is_expert_parallel)
        own = arrivals[rank] | {last: arrivals[rank].get(last, [])}
        options = {"num_pages": 60} | more
        return Group(model, collectives, own, limits or Limits(4, 10, 20), **options).run()

    for rank in range(size):
        load(folder, Shard(rank, size), is_expert_parallel)  # a cache is not for several threads
    return ThreadRanks(size).run(main)


def greedy(request_id, prompt):
    request = make_request(request_id, prompt, NUM_OUTPUTS)
    request.params, request.seed = GREEDY, SEED
    return request


def draw_arrivals(draw):
    numbers = draw(st.lists(st.integers(0, len(PROMPTS) - 1), max_size=5))
    rounds = draw(st.lists(st.integers(0, 12), min_size=len(numbers), max_size=len(numbers)))
    arrivals = {}
    for request_id, (number, each) in enumerate(zip(numbers, rounds, strict=True)):
        arrivals.setdefault(each, []).append(greedy(request_id, PROMPTS[number]))
    return arrivals


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_tokens_are_those_of_one_process(folder, data):
    """
    With idle groups, uneven batches, prefill beside decode, retraction, in groups of one rank.
    """
    size = data.draw(st.sampled_from([1, 2, 4]))
    arrivals = [draw_arrivals(data.draw) for _ in range(size)]
    groups = run_groups(
        folder,
        size,
        arrivals,
        is_expert_parallel=data.draw(st.booleans()),
        limits=Limits(data.draw(st.integers(1, 5)), 10, data.draw(st.integers(5, 90))),
        num_pages=(MAX_TOKENS + data.draw(st.integers(0, 200))) // PAGE_SIZE,
        retractions=data.draw(st.sets(st.integers(0, 30), max_size=5)),
    )

    assert len({group.num_rounds for group in groups}) == 1
    for group in groups:
        for request in group.requests:
            expected = oracle(folder).outputs(request.prompt_ids, GREEDY)
            assert request.output_ids == expected


@pytest.fixture(name="tiny", scope="module")
def _tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("tiny"))


def test_every_gather_has_all_reports(tiny):
    """
    What a group reports before a step, all know in that step, from the gather that shapes it.
    """
    gathered = ThreadRanks(2).run(lambda ranks: _report_once(tiny, ranks))

    assert gathered[0] == gathered[1]
    assert [row.report.dp_rank for row in gathered[0][0]] == [0, 1]


def _report_once(folder, collectives):
    rank = collectives.rank
    group = Group(load(folder, Shard(rank, 2)), collectives, {}, Limits(1, 1, 8), 60)
    group.reports.own = make_report(rank, sampled_ns=17 + rank)
    group.runner.rest()
    return group.reports.noted


def test_rows_tell_what_of_the_step_before_was_spent_in_collectives(tiny):
    """
    The gather of rows included, and nothing of the steps before that one; the same in all ranks.
    """
    arrivals = [{0: [greedy(0, PROMPTS[1])]}, {}]
    groups = run_groups(tiny, 2, arrivals)

    steps = [rows for rows in groups[0].reports.noted if any(row.work.num_tokens for row in rows)]
    timings = [[row.timing for row in rows] for rows in steps]
    assert len(steps) > 2
    assert timings[0] == [Timing(), Timing()]
    waited_ns = {timing.waited_ns for rows in timings[1:] for timing in rows}
    assert len(waited_ns) == 1
    assert min(waited_ns) > WAIT_NS
    assert all(timing.step_ns > 0 for rows in timings[1:] for timing in rows)


def test_a_pause_begins_when_nobody_has_anything_and_ends_with_a_ring(tiny):
    """
    A rank that joins others' work does not pause.
    """
    groups = run_groups(tiny, 2, [{0: [greedy(1, PROMPTS[0])]}, {}])

    assert [group.bell.pauses for group in groups] == [1, 1]
    assert groups[1].bell.rings == groups[1].num_rounds + 1, "each gather, and the one to leave"


def test_a_pass_that_fails_in_one_rank_ends_all(tiny):
    """
    The one says what failed, the others that it is gone; none waits for ever.
    """
    errors = {}

    def main(collectives):
        model = load(tiny, Shard(collectives.rank, 2))
        arrivals = {0: [greedy(1, PROMPTS[2])]}
        group = Group(model, collectives, arrivals, Limits(4, 10, 20), 60)
        if collectives.rank == 1:
            group.runner._inner._kv = None
        try:
            group.run()
        except (PassFailed, RankLost) as error:
            errors[collectives.rank] = error
            raise

    with pytest.raises(PassFailed, match="NoneType"):
        ThreadRanks(2).run(main)

    assert isinstance(errors[0], RankLost)


def test_who_has_left_computes_for_those_who_go_on(tiny):
    """
    A group that ends early keeps the other company until its last token.
    """
    groups = run_groups(tiny, 2, [{}, {0: [greedy(1, PROMPTS[3])]}], limits=Limits(1, 1, 5))
    early = ThreadRanks(2).run(lambda ranks: _leave_early(tiny, ranks))

    assert early[1].requests[0].output_ids == groups[1].requests[0].output_ids


def _leave_early(folder, collectives):
    arrivals = {} if collectives.rank == 0 else {0: [greedy(1, PROMPTS[3])]}
    model = load(folder, Shard(collectives.rank, 2))
    group = Group(model, collectives, arrivals, Limits(1, 1, 5), 60)
    if collectives.rank == 1:
        return group.run()
    group.runner.warm_up(lambda: None)
    group.runner.leave()
    return group
