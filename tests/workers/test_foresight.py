"""What is prepared while a step is computed, and that it changes nothing else."""

import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.fakes import END, FakeText, SlotRunner, make_request
from tests.workers.scheduler_bench import PAGE_SIZE, Bench
from workers.engine.batch import BatchBuilder
from workers.engine.forward_thread import ForwardThread, SameThread
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.errors import RequestRefused, StepFailed
from workers.model.llama import KVCache
from workers.model.sampling import Sampler

CPU = torch.device("cpu")


def places(chunks):
    return [(c.request.request_id, c.start, c.num_new, tuple(c.pages)) for c in chunks]


def step(bench):
    """What was foreseen during the step, and what the step was."""
    plan = bench.scheduler.plan()
    planned, foreseen = places(plan.chunks), places(bench.scheduler.foresee(plan))
    bench.scheduler.tables.check_integrity()
    bench.scheduler.commit(plan, bench.runner.run(plan))
    bench.scheduler.check_integrity()
    return foreseen, planned


def test_decodes_are_foreseen_to_the_page():
    """
    Over page boundaries, and without those whose outputs are at their end.
    """
    bench = Bench()
    for request_id in range(3):
        bench.add(request_id, [request_id + 1] * (3 + request_id), 9 + 3 * request_id)
    step(bench)  # what a prompt leaves in the cache changes owners, not pages
    steps = [step(bench) for _ in range(14)]

    for (foreseen, _), (_, planned) in pairwise(steps):
        assert foreseen == planned
    assert [len(planned) for _, planned in steps[:2] + steps[-1:]] == [3, 3, 1]
    assert bench.scheduler.is_idle
    assert steps[-1][0] == []


def test_nothing_is_foreseen_while_a_prompt_is_chunked():
    """
    What follows is no step of decodes alone.
    """
    bench = Bench(budget=4)
    bench.add(1, [1] * 10, 3)

    assert [len(foreseen) for foreseen, _ in (step(bench), step(bench), step(bench))] == [0, 0, 1]


def test_no_page_is_evicted_for_what_is_foreseen():
    """
    The cache may lose a page to the plan, and not to a guess.
    """
    bench = Bench(num_pages=3)
    bench.serve(1, [1] * 7)  # one full page stays cached
    bench.add(2, [2] * 8, 5)
    plan = bench.scheduler.plan()
    assert bench.scheduler.pool.num_free == 0
    assert bench.scheduler.tables.num_available == 1

    assert bench.scheduler.foresee(plan) == []
    assert bench.scheduler.cache.num_pages == 1


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("arrive"), st.lists(st.integers(1, 2), min_size=1, max_size=15),
            st.integers(0, 9),
        ),
        st.tuples(st.just("step"), st.just(None), st.integers(1, 4)),
        st.tuples(st.sampled_from(["abort", "retract", "fail"]), st.just(None), st.integers(0, 9)),
    ),
    max_size=40,
)  # fmt: skip


class Schedule:
    """A scheduler that follows a script; what it planned and what came out, page numbers apart."""

    def __init__(self, limits, num_pages, page_size, cache, ratio, looks_ahead):
        pool = PagePool(num_pages, page_size)
        growth = GrowthEstimate(ratio)
        self.scheduler = Scheduler(limits, pool, cache(page_size), growth=growth)
        self.runner, self.looks_ahead = SlotRunner(page_size), looks_ahead
        self.requests, self.trace = [], []

    def follow(self, script):
        for name, prompt, number in script:
            getattr(self, name)(prompt, number)
            self.scheduler.check_integrity()
        while not self.scheduler.is_idle:
            self.step(None, 1)
        self.trace.append(self.scheduler.totals.retractions)
        return self.trace

    def arrive(self, prompt, max_new):
        request = make_request(len(self.requests), prompt, max_new, [END], FakeText(stop="1"))
        self.requests.append(request)
        try:
            self.scheduler.add(request)
        except RequestRefused as error:
            self.trace.append(str(error))

    def plan(self):
        plan = self.scheduler.plan()
        self.trace += [chunk[:3] for chunk in places(plan.chunks)]
        self.trace += plan.failed and [str(o.error) for o in plan.failed]
        if self.looks_ahead:
            self.scheduler.foresee(plan)
            self.scheduler.tables.check_integrity()
        return plan

    def step(self, _, times):
        for _ in range(times):
            plan = self.plan()
            self.trace += self.scheduler.commit(plan, self.runner.run(plan))

    def fail(self, _, number):
        error = StepFailed(ValueError("by chance"))
        self.trace += [o.request_id for o in self.scheduler.fail(self.plan(), error)]

    def abort(self, _, number):
        self.scheduler.abort(number)

    def retract(self, _, number):
        capacity = self.scheduler.pool.capacity_tokens
        running = [r for r in self.requests if r.state is State.RUNNING]
        running = [r for r in running if r.num_tokens <= capacity]
        if running:
            self.scheduler._retract(running[number % len(running)])


@settings(deadline=None, max_examples=300)
@given(
    script=OPERATIONS,
    limits=st.builds(Limits, st.integers(1, 5), st.just(6), st.integers(1, 12)),
    num_pages=st.integers(2, 12),
    page_size=st.sampled_from([1, 3, 4]),
    cache=st.sampled_from([RadixCache, lambda _page_size: NoCache()]),
    ratio=st.sampled_from([0.0, 1.0]),
)
def test_the_schedule_is_the_same_with_and_without_foresight(
    script, limits, num_pages, page_size, cache, ratio
):
    """
    The same plans, outputs, failures and retractions, whatever happens.
    """
    plain, ahead = (
        Schedule(limits, num_pages, page_size, cache, ratio, looks_ahead).follow(script)
        for looks_ahead in (False, True)
    )

    assert plain == ahead


def serve(model, lane, stop):
    """The outputs of two requests, the second with a stop string; and the steps foreseen."""
    pool = PagePool(40, PAGE_SIZE)
    scheduler = Scheduler(Limits(4, 4, 64), pool, RadixCache(PAGE_SIZE))
    kv = KVCache.allocate(model.config, pool.capacity_tokens, CPU, torch.float32)
    runner = ModelRunner(model, kv, BatchBuilder(64, PAGE_SIZE, CPU), Sampler(0), 1, lane)
    runner.warm_up()
    requests = [
        make_request(i, [5 + i] * 6, 12, text=FakeText(stop if i else None)) for i in (0, 1)
    ]
    for request in requests:
        scheduler.add(request)
    while not scheduler.is_idle:
        plan = scheduler.plan()
        wait = runner.launch(plan)
        if runner.looks_ahead:
            runner.prepare(scheduler.foresee(plan))
        scheduler.commit(plan, wait())
    return [request.output_ids for request in requests], runner.num_foreseen


def test_what_was_prepared_is_used_unless_somebody_stops(model):
    """
    A stop string drops one preparation; the tokens are those of the plain loop.
    """
    outputs, num_foreseen = serve(model, SameThread(), None)
    assert num_foreseen == 0
    assert serve(model, ForwardThread(), None) == (outputs, 11)

    stop = f"{outputs[1][4]} "
    stopped, num_foreseen = serve(model, ForwardThread(), stop)
    assert stopped == [outputs[0], outputs[1][: outputs[1].index(outputs[1][4]) + 1]]
    assert num_foreseen == 10


def test_a_pass_is_computed_beside_whoever_began_it():
    """
    It waits here for something that happens only after it began.
    """
    lane, happened = ForwardThread(), threading.Event()
    wait = lane.begin(lambda: happened.wait(60.0))
    happened.set()

    assert wait()
    assert lane.begin(threading.current_thread)() is lane.begin(threading.current_thread)()
    assert lane.begin(threading.current_thread)() is not threading.current_thread()


def test_a_lane_in_the_same_thread_computes_when_it_is_waited_for():
    """
    Nothing happens before.
    """
    done = []
    wait = SameThread().begin(lambda: done.append(1))
    assert not done

    wait()
    assert done


@pytest.mark.parametrize("lane", [SameThread, ForwardThread])
def test_whoever_waits_for_a_pass_gets_its_error(lane):
    """
    And the lane computes the next.
    """
    lane = lane()
    wait = lane.begin(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        wait()
    assert lane.begin(lambda: 7)() == 7


def test_the_thread_ends_with_its_lane():
    """
    Nobody has to close it.
    """
    lane = ForwardThread()
    thread = lane.begin(threading.current_thread)()
    del lane

    thread.join(60.0)
    assert not thread.is_alive()
