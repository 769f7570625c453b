"""
Random traffic through scheduler, prefix cache and pages: what happens, in what order.

In two orders: as the step loop goes where nothing is prepared ahead,

    plan k ─ compute k ─ commit k ─ what has arrived ─ plan k+1

and where something is, with checks and arrivals while a step is under way:

    plan k ─ launch k ─ foresee and prepare k+1 ─ wait for k ─ commit k ─ what has arrived

What holds at any time is in tests.workers.test_scheduler_traffic.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from tests.workers.fakes import END, SlotRunner, expected_output, make_request
from tests.workers.naive_cache import NaiveCache
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.plan import Plan
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache
from workers.engine.request import Sample, State
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.totals import Totals
from workers.engine.waiting import Order, SchedulePolicy
from workers.errors import NeverFits, QueueFull, StepFailed

CACHES = {
    "radix": RadixCache,
    "naive": NaiveCache,
    "none": lambda _page_size: NoCache(),
}
TOKENS = st.lists(st.integers(1, 2), min_size=1, max_size=20)


class Flight(NamedTuple):
    """A step under way.  wait: for its samples.  fails: it ends without them being recorded."""

    plan: Plan
    wait: Callable[[], Sequence[Sample]]
    fails: bool


class Traffic(RuleBasedStateMachine):
    """
    Random arrivals, forks, steps, failures and aborts, on a cache that is too small.

    inbox: what has arrived since the launch of the step under way.  news: whether something
    has happened since the foresight that it could not know.
    """

    looks_ahead = False
    counts: ClassVar = Counter()

    @initialize(
        num_pages=st.integers(2, 12),
        page_size=st.sampled_from([1, 3, 4]),
        limits=st.builds(Limits, st.integers(1, 5), st.just(6), st.integers(1, 12)),
        cache=st.sampled_from(["radix", "radix", "naive", "none"]),
        order=st.builds(Order, st.sampled_from(SchedulePolicy), st.integers(0, 4)),
        ratio=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def start(self, num_pages, page_size, limits, cache, order, ratio):
        self.pool = PagePool(num_pages, page_size)
        cache = CACHES[cache](page_size)
        self.scheduler = Scheduler(limits, self.pool, cache, order, GrowthEstimate(ratio))
        self.order = order
        self.runner = SlotRunner(page_size)
        self.requests, self.live, self.outputs, self.errors = {}, set(), {}, {}
        self.left = Totals()
        self.flight, self.inbox, self.news = None, [], True

    @rule(
        prompt=TOKENS,
        max_new=st.integers(0, 9),
        limit=st.none() | st.integers(0, 10),
        priority=st.sampled_from([0, 0, 0, 1]),
    )
    def arrive(self, prompt, max_new, limit, priority):
        request_id = len(self.requests) + 1
        request = make_request(
            request_id, prompt, max_new, [END], prefix_limit=limit, priority=priority
        )
        self.requests[request_id] = request
        self.when_landed(partial(self.add, request_id, request))

    def when_landed(self, act):
        """The step loop looks at what has arrived between two steps, in its order."""
        if self.flight is None:
            self.news = True
            act()
        else:
            self.inbox.append(act)

    def add(self, request_id, request):
        try:
            self.scheduler.add(request)
        except NeverFits:
            assert request.num_prompt > self.pool.capacity_tokens
        except QueueFull:
            assert len(self.live) == self.scheduler.limits.max_requests
        else:
            self.live.add(request_id)
            self.outputs[request_id] = []

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), more=TOKENS, max_new=st.integers(0, 9))
    def fork(self, data, more, max_new):
        """Begin with what another request holds, some of it or all."""
        parent = self.requests[data.draw(st.sampled_from(sorted(self.requests)))]
        num_tokens = data.draw(st.integers(0, parent.num_tokens))
        self.counts["forks"] += 1
        self.arrive([*parent.tokens(0, num_tokens), *more][:25], max_new, None, 0)

    @precondition(lambda self: self.flight is None)
    @rule(fails=st.sampled_from([False] * 9 + [True]))
    def launch(self, fails=False):
        """Plan, launch and prepare; in the order without foresight the step ends at once, too."""
        plan = self.plan()
        for output in plan.failed:
            self.take(output)
        self.flight = Flight(plan, self.runner.launch(plan), fails)
        if self.looks_ahead:
            self.foresee(plan)
        else:
            self.land()

    def foresee(self, plan):
        self.runner.prepare(self.scheduler.foresee(plan))
        self.news = any(chunk.is_prefill for chunk in plan.chunks)
        if self.runner.foreseen:
            self.counts["foreseen"] += 1

    @precondition(lambda self: self.flight is not None)
    @rule()
    def land(self):
        """Wait for the samples, commit or fail, and look at what has arrived."""
        plan, wait, fails = self.flight
        samples = wait()
        if fails:
            self.fail(plan)
        else:
            for output in self.scheduler.commit(plan, samples):
                self.take(output)
        self.flight, arrived, self.inbox = None, self.inbox, []
        for act in arrived:
            self.when_landed(act)

    def fail(self, plan):
        self.counts["failed steps"] += bool(plan.chunks)
        self.news = True
        for output in self.scheduler.fail(plan, StepFailed(ValueError("by chance"))):
            self.forget(output.request_id)

    def forget(self, request_id):
        self.live.remove(request_id)
        self.note_that_it_left(request_id)
        del self.outputs[request_id]

    def plan(self):
        before, num_retracted = self.reached(), self.num_retracted()
        num_cached = self.scheduler.cache.num_pages
        has_waiting = bool(self.scheduler.waiting)
        plan = self.scheduler.plan()
        self.counts["steps"] += bool(plan.chunks)
        self.counts["retractions"] += self.num_retracted() - num_retracted
        self.counts["steps that evict"] += self.scheduler.cache.num_pages < num_cached
        assert plan.num_tokens <= self.scheduler.limits.max_step_tokens
        assert all(chunk.num_new > 0 for chunk in plan.chunks)
        assert bool(plan.chunks) or not (self.live - {o.request_id for o in plan.failed})
        self.check_that_nobody_computes_what_another_does(plan, before)
        self.check_that_it_was_foreseen(plan, has_waiting)
        return plan

    def check_that_it_was_foreseen(self, plan, has_waiting):
        """To the page, if nothing else has happened and nobody was waiting."""
        foreseen, self.runner.foreseen = self.runner.foreseen, []
        if foreseen and not self.news and not has_waiting:
            places = [(c.request.request_id, c.start, tuple(c.pages)) for c in plan.chunks]
            assert places == foreseen
            self.counts["steps as foreseen"] += 1

    def num_retracted(self):
        return sum(request.account.num_retractions for request in self.requests.values())

    def reached(self):
        return {i: self.requests[i].account.num_reached for i in self.live}

    def check_that_nobody_computes_what_another_does(self, plan, before):
        """Two arrivals of one step have no page in common that both compute."""
        size = self.pool.page_size
        if not self.scheduler.cache.keeps:
            return
        fresh = [c for c in plan.chunks if c.is_prefill and c.request.prefix_limit is None]
        for first, second in pairwise(fresh):
            end = (second.start // size + 1) * size
            if end <= min(second.end, second.request.num_tokens - 1) and end <= first.end:
                assert first.start >= end or (
                    first.request.tokens(0, end) != second.request.tokens(0, end)
                )
        assert all(self.requests[i].account.num_reached >= before[i] for i in before)

    def take(self, output):
        assert output.request_id in self.live
        if output.token_id is not None:
            self.outputs[output.request_id].append(output.token_id)
        if output.is_last:
            self.live.remove(output.request_id)
            self.note_that_it_left(output.request_id)
            self.errors[output.request_id] = output.error
            request = self.requests[output.request_id]
            assert output.error or output.num_cached == request.account.num_cached
            self.news |= request.num_outputs < request.max_new_tokens

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        self.when_landed(partial(self.drop, request_id))

    def drop(self, request_id):
        """One that has ended in the meantime is not there any more."""
        is_live = request_id in self.live
        assert self.scheduler.abort(request_id) == is_live
        if is_live:
            self.counts["aborts"] += 1
            self.forget(request_id)

    def note_that_it_left(self, request_id):
        request = self.requests[request_id]
        self.left = self.left.plus(request.account, request.num_outputs)

    @precondition(lambda self: self.flight is None and self.running())
    @rule(data=st.data())
    def retract(self, data):
        """As when others need the room, but of anybody."""
        self.scheduler._retract(data.draw(st.sampled_from(self.running())))
        self.counts["retractions"] += 1
        self.news = True

    def running(self):
        """Those that run and can come back: one that outgrew the cache ends with the next plan."""
        live = (self.requests[i] for i in sorted(self.live))
        capacity = self.pool.capacity_tokens
        return [r for r in live if r.state is State.RUNNING and r.num_tokens <= capacity]

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            if self.flight is not None:
                self.land()
            elif self.live:
                self.launch()
            else:
                break
        assert not self.live, "everyone comes to an end"
        self.scheduler.check_integrity()
        assert self.scheduler.cache.num_locks == 0
        assert self.pool.num_free + self.scheduler.cache.num_evictable == self.pool.num_pages
        for request_id, output in self.outputs.items():
            self.check_output(self.requests[request_id], output, self.errors[request_id])

    def check_output(self, request, output, error):
        expected = expected_output(request.prompt_ids, request.max_new_tokens, [END])
        if error is None:
            assert output == expected
        else:
            assert output == expected[: len(output)]
            assert request.num_prompt + len(output) > self.pool.capacity_tokens
