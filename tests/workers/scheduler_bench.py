"""A scheduler with a prefix cache and the fake model, stepped by hand."""

from tests.workers.fakes import SlotRunner, expected_output, make_request
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.waiting import Order

PAGE_SIZE = 4


class Bench:
    """All books are checked after each step.  ratio: 0 expects nobody to grow."""

    def __init__(
        self, num_pages=64, page_size=PAGE_SIZE, max_running=4, budget=64, order=None, ratio=0.0
    ):
        self.runner = SlotRunner(page_size)
        self.scheduler = Scheduler(
            Limits(max_running, 500, budget),
            PagePool(num_pages, page_size),
            RadixCache(page_size),
            order or Order(),
            GrowthEstimate(ratio),
        )
        self.requests = {}
        self.plans = []

    def add(self, request_id, prompt, max_new_tokens=1, **more):
        request = make_request(request_id, prompt, max_new_tokens, **more)
        self.requests[request_id] = request
        self.scheduler.add(request)
        return request

    def step(self):
        plan = self.scheduler.plan()
        assert not plan.failed
        self.plans.append([(c.request.request_id, c.start, c.num_new) for c in plan.chunks])
        self.scheduler.commit(plan, self.runner.run(plan))
        self.scheduler.check_integrity()
        return self.plans[-1]

    def run(self):
        while not self.scheduler.is_idle:
            self.step()
        return self

    def serve(self, request_id, prompt, max_new_tokens=1, **more):
        request = self.add(request_id, prompt, max_new_tokens, **more)
        self.run()
        assert request.output_ids == expected_output(prompt, max_new_tokens)
        return request

    def forget(self):
        """Evict everything that nobody uses."""
        cache = self.scheduler.cache
        self.scheduler.pool.put(cache.evict(cache.num_evictable))

    def order_of_admission(self):
        """Ids in the order in which their first chunk was computed."""
        return list(dict.fromkeys(i for plan in self.plans for i, _, _ in plan))


def counts(request):
    account = request.account
    return account.num_cached, account.num_computed, account.num_recomputed
