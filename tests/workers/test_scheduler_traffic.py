from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.workers.fakes import END, SlotRunner, expected_output, make_request
from workers.engine.pages import PagePool
from workers.engine.scheduler import Limits, Scheduler
from workers.errors import NeverFits, QueueFull


class AnyTraffic(RuleBasedStateMachine):
    """Random arrivals, steps and aborts, on a cache that is too small."""

    @initialize(
        num_pages=st.integers(2, 12),
        page_size=st.sampled_from([1, 3, 4]),
        max_running=st.integers(1, 5),
        budget=st.integers(1, 12),
    )
    def start(self, num_pages, page_size, max_running, budget):
        self.pool = PagePool(num_pages, page_size)
        self.scheduler = Scheduler(Limits(max_running, 6, budget), self.pool)
        self.runner = SlotRunner(page_size)
        self.requests, self.live, self.outputs, self.errors = {}, set(), {}, {}

    @rule(num_prompt=st.integers(1, 20), max_new=st.integers(1, 9), token=st.integers(0, 9))
    def arrive(self, num_prompt, max_new, token):
        request_id = len(self.requests) + 1
        request = make_request(request_id, [token] * num_prompt, max_new, stop_ids=[END])
        self.requests[request_id] = request
        try:
            self.scheduler.add(request)
        except NeverFits:
            assert num_prompt > self.pool.capacity_tokens
        except QueueFull:
            assert len(self.live) == self.scheduler.limits.max_requests
        else:
            self.live.add(request_id)
            self.outputs[request_id] = []

    @rule()
    def step(self):
        plan = self.scheduler.plan()
        assert plan.num_tokens <= self.scheduler.limits.max_step_tokens
        assert all(chunk.num_new > 0 for chunk in plan.chunks)
        assert bool(plan.chunks) or not (self.live - {o.request_id for o in plan.failed})
        for output in (*plan.failed, *self.scheduler.commit(plan, self.runner.run(plan))):
            assert output.request_id in self.live
            if output.token_id is not None:
                self.outputs[output.request_id].append(output.token_id)
            if output.is_last:
                self.live.remove(output.request_id)
                self.errors[output.request_id] = output.error

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        assert self.scheduler.abort(request_id)
        self.live.remove(request_id)
        del self.outputs[request_id]

    @invariant()
    def pages_and_requests_agree(self):
        self.scheduler.check_integrity()

    @invariant()
    def holding_is_what_the_clients_know(self):
        known = sum(self.requests[i].num_prompt + len(self.outputs[i]) for i in self.live)
        holdings = self.scheduler.holdings()
        assert holdings.holding_tokens == known
        assert holdings.running_requests + holdings.waiting_requests == len(self.live)
        assert holdings.running_requests <= self.scheduler.limits.max_running_requests
        assert holdings.kv_used_tokens <= self.pool.capacity_tokens

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(5_000):
            if not self.live:
                break
            self.step()
        assert not self.live, "everyone comes to an end"
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
