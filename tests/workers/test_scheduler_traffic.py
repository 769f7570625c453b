"""
Random traffic through scheduler, prefix cache and pages, all books checked after each step.

`python -m tests.workers.test_scheduler_traffic 100000` runs at least as many steps.
"""

import sys
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.workers.fakes import END, SlotRunner, expected_output, make_request
from tests.workers.naive_cache import NaiveCache
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
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


class AnyTraffic(RuleBasedStateMachine):
    """Random arrivals, forks, steps, failures and aborts, on a cache that is too small."""

    num_steps_of_all = 0

    @initialize(
        num_pages=st.integers(2, 12),
        page_size=st.sampled_from([1, 3, 4]),
        limits=st.builds(Limits, st.integers(1, 5), st.just(6), st.integers(1, 12)),
        cache=st.sampled_from(["radix", "radix", "naive", "none"]),
        order=st.builds(Order, st.sampled_from(SchedulePolicy), st.integers(0, 4)),
        ratio=st.sampled_from([0.0, 0.5, 1.0]),
        looks_ahead=st.booleans(),
    )
    def start(self, num_pages, page_size, limits, cache, order, ratio, looks_ahead):
        self.looks_ahead = looks_ahead
        self.pool = PagePool(num_pages, page_size)
        cache = CACHES[cache](page_size)
        self.scheduler = Scheduler(limits, self.pool, cache, order, GrowthEstimate(ratio))
        self.order = order
        self.runner = SlotRunner(page_size)
        self.requests, self.live, self.outputs, self.errors = {}, set(), {}, {}
        self.left = Totals()

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
        try:
            self.scheduler.add(request)
        except NeverFits:
            assert len(prompt) > self.pool.capacity_tokens
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
        self.arrive([*parent.tokens(0, num_tokens), *more][:25], max_new, None, 0)

    def plan(self):
        type(self).num_steps_of_all += 1
        before = self.reached()
        plan = self.scheduler.plan()
        assert plan.num_tokens <= self.scheduler.limits.max_step_tokens
        assert all(chunk.num_new > 0 for chunk in plan.chunks)
        assert bool(plan.chunks) or not (self.live - {o.request_id for o in plan.failed})
        self.check_that_nobody_computes_what_another_does(plan, before)
        if self.looks_ahead:
            self.scheduler.foresee(plan)
            self.scheduler.tables.check_integrity()
        return plan

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

    @rule()
    def step(self):
        plan = self.plan()
        for output in (*plan.failed, *self.scheduler.commit(plan, self.runner.run(plan))):
            self.take(output)

    @rule()
    def fail_a_step(self):
        plan = self.plan()
        for output in plan.failed:
            self.take(output)
        for output in self.scheduler.fail(plan, StepFailed(ValueError("by chance"))):
            self.live.remove(output.request_id)
            self.note_that_it_left(output.request_id)
            del self.outputs[output.request_id]

    def take(self, output):
        assert output.request_id in self.live
        if output.token_id is not None:
            self.outputs[output.request_id].append(output.token_id)
        if output.is_last:
            self.live.remove(output.request_id)
            self.note_that_it_left(output.request_id)
            self.errors[output.request_id] = output.error
            account = self.requests[output.request_id].account
            assert output.error or output.num_cached == account.num_cached

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        assert self.scheduler.abort(request_id)
        self.live.remove(request_id)
        self.note_that_it_left(request_id)
        del self.outputs[request_id]

    def note_that_it_left(self, request_id):
        request = self.requests[request_id]
        self.left = self.left.plus(request.account, request.num_outputs)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def retract(self, data):
        """As when others need the room, but of anybody."""
        self.scheduler._retract(data.draw(st.sampled_from(self.running())))

    def running(self):
        """Those that run and can come back: one that outgrew the cache ends with the next plan."""
        live = (self.requests[i] for i in sorted(self.live))
        capacity = self.pool.capacity_tokens
        return [r for r in live if r.state is State.RUNNING and r.num_tokens <= capacity]

    @invariant()
    def pages_locks_and_requests_agree(self):
        self.scheduler.check_integrity()

    @invariant()
    def every_prompt_token_is_counted_once(self):
        for request in self.requests.values():
            account = request.account
            counted = account.num_cached + account.num_computed
            assert counted == min(account.num_reached, request.num_prompt)
            assert account.num_retractions or not account.num_recomputed

    @invariant()
    def totals_are_those_of_all_who_have_left(self):
        assert self.scheduler.totals == self.left

    @invariant()
    def nobody_starves(self):
        """What happens in one step is noticed after it, and a step has so many seats."""
        bound = self.order.max_overtaken + self.scheduler.limits.max_running_requests
        for request in self.scheduler.waiting:
            assert self.scheduler.waiting.num_overtaken(request) <= bound

    @invariant()
    def holding_is_what_the_clients_know(self):
        known = sum(self.requests[i].num_prompt + len(self.outputs[i]) for i in self.live)
        holdings = self.scheduler.holdings()
        assert holdings.holding_tokens == known
        assert holdings.running_requests + holdings.waiting_requests == len(self.live)
        assert holdings.running_requests <= self.scheduler.limits.max_running_requests
        assert holdings.kv_used_tokens + holdings.waiting_uncached_tokens <= known

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(5_000):
            if not self.live:
                break
            self.step()
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


AnyTraffic.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase


def main(num_steps):
    """Run the machine, from new seeds, until it has made as many steps."""
    many = settings(AnyTraffic.TestCase.settings, max_examples=500, database=None)
    while num_steps > AnyTraffic.num_steps_of_all:
        run_state_machine_as_test(AnyTraffic, settings=many)
    sys.stdout.write(f"{AnyTraffic.num_steps_of_all} steps\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
