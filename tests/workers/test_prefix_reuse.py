import pytest

from tests.workers.fakes import SlotRunner, expected_output, make_request
from workers.engine.growth import INITIAL_RATIO, LEAST_RATIO, GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.waiting import MAX_MATCHED, Order, SchedulePolicy

PAGE_SIZE = 4
PROMPT = [*range(1, 13), 9]  # three full pages and a token


class Bench:
    """A scheduler with a prefix cache, stepped by hand."""

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

    def order_of_admission(self):
        """Ids in the order in which their first chunk was computed."""
        return list(dict.fromkeys(i for plan in self.plans for i, _, _ in plan))


@pytest.fixture(name="bench")
def _bench():
    return Bench()


def counts(request):
    account = request.account
    return account.num_cached, account.num_computed, account.num_recomputed


def test_a_prompt_that_was_computed_before_is_not_computed_again(bench):
    """
    Only what comes after its full pages is; the client is told how many were cached.
    """
    bench.serve(1, PROMPT)
    again = bench.serve(2, PROMPT)

    assert bench.plans == [[(1, 0, 13)], [(2, 12, 1)]]
    assert counts(again) == (12, 1, 0)


def test_at_least_one_token_is_computed(bench):
    """
    A prompt of which every page is cached computes its last page, to have its logits.
    """
    bench.serve(1, PROMPT[:12])

    assert counts(bench.serve(2, PROMPT[:12])) == (8, 4, 0)


def test_outputs_are_cached_as_well(bench):
    """
    The next turn of a conversation begins with the answer to the last one.
    """
    first = bench.serve(1, PROMPT, max_new_tokens=8)  # 20 of its 21 tokens have keys and values
    turn = [*PROMPT, *first.output_ids, 1, 2]

    assert counts(bench.serve(2, turn)) == (20, 3, 0)


def test_a_request_for_no_output_leaves_its_prompt(bench):
    """
    It ends without a token, and whoever extends its prompt finds all of it.
    """
    first = bench.serve(1, PROMPT[:12], max_new_tokens=0)
    assert first.output_ids == []

    assert counts(bench.serve(2, PROMPT)) == (12, 1, 0)


def test_a_request_may_limit_what_it_takes_from_the_cache(bench):
    """
    Whole pages below the limit; and it computes side by side with its like, not after it.
    """
    bench.serve(1, PROMPT)

    assert counts(bench.serve(2, PROMPT, prefix_limit=7)) == (4, 9, 0)
    assert counts(bench.serve(3, PROMPT, prefix_limit=0)) == (0, 13, 0)


def test_equal_prompts_in_one_batch_end_with_one_set_of_pages(bench):
    """
    Each computes all of it because it must; one set is kept, and decodes read that.
    """
    for request_id in range(1, 5):
        bench.add(request_id, PROMPT, 6, prefix_limit=0)
    assert len(bench.step()) == 4
    used = bench.scheduler.pool.num_pages - bench.scheduler.pool.num_free

    assert used == 3 + 4  # the prompt's full pages, and one page of each request's own
    bench.run()
    assert all(r.output_ids == expected_output(PROMPT, 6) for r in bench.requests.values())


def test_a_prefix_that_many_wait_for_is_computed_once(bench):
    """
    The others follow when it is cached, and somebody else takes the step's room meanwhile.
    """
    for request_id in (1, 2, 3):
        bench.add(request_id, [*PROMPT[:12], 50 + request_id, 7])
    bench.add(4, [90, 91])

    assert bench.step() == [(1, 0, 14), (4, 0, 2)]
    assert bench.step() == [(2, 12, 2), (3, 12, 2)]


def test_others_wait_only_for_what_they_have_in_common():
    """
    The first is still at its long prompt when the second starts after the part they share.
    """
    bench = Bench(budget=10)
    bench.add(1, range(100, 130))
    bench.add(2, [*range(100, 108), 7])

    for _ in range(4):
        bench.step()
    assert bench.plans == [[(1, 0, 10)], [(1, 10, 10)], [(1, 20, 10)], [(2, 8, 1)]]


def test_what_a_client_that_left_had_computed_is_kept(bench):
    """
    Aborted half way: the same prompt goes on from there.
    """
    bench = Bench(budget=8)
    bench.add(1, PROMPT)
    bench.step()
    bench.scheduler.abort(1)

    assert counts(bench.serve(2, PROMPT)) == (8, 5, 0)


def test_what_a_failed_step_leaves_is_not_kept(bench):
    """
    Of its requests only what was cached before remains: here the prompt, and not the outputs.
    """
    request = bench.add(1, PROMPT, 20)
    while request.num_tokens < 24:
        bench.step()
    bench.scheduler.fail(bench.scheduler.plan(), ValueError())

    assert counts(bench.serve(2, [*request.prompt_ids, *request.output_ids])) == (12, 12, 0)


def test_cached_pages_make_room_for_whoever_needs_it():
    """
    A full cache admits as if it were empty, and the longest unused prefix goes.
    """
    bench = Bench(num_pages=8)
    for request_id in (1, 2, 3):
        bench.serve(request_id, [request_id] * 12)
    assert bench.scheduler.pool.num_free < 3

    bench.serve(4, [9] * 30)
    assert bench.scheduler.tables.num_available == 8


def test_holding_counts_shared_tokens_for_each_request(bench):
    """
    Waiting: all of it is held, and what is not cached is to be computed.  Running: all is read.
    """
    bench.serve(1, PROMPT)
    bench.add(2, PROMPT, 9)
    bench.add(3, PROMPT, 9)

    assert bench.scheduler.holdings() == (26, 0, 2, 2, 0)
    bench.step()
    assert bench.scheduler.holdings() == (28, 2, 0, 0, 26)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(SchedulePolicy.LPM, [1, 4, 3, 2]), (SchedulePolicy.FCFS, [1, 2, 3, 4])],
)
def test_the_longest_prefix_goes_first_if_asked_for(policy, expected):
    """
    Longest prefix match uses what is cached; first come, first served does not look.
    """
    bench = Bench(max_running=1, order=Order(policy))
    bench.serve(1, PROMPT)
    bench.add(2, [70, 71])
    bench.add(3, [*PROMPT[:4], 80])
    bench.add(4, [*PROMPT[:8], 80])
    bench.run()

    assert bench.order_of_admission() == expected


def test_a_long_queue_is_served_in_the_order_of_arrival():
    """
    Matching all of them would cost more than it brings.
    """
    bench = Bench(max_running=1)
    bench.serve(1, PROMPT)
    for request_id in range(2, MAX_MATCHED + 2):
        bench.add(request_id, [400 + request_id])
    bench.add(999, PROMPT)

    assert bench.step() == [(2, 0, 1)]
    assert bench.step() == [(999, 12, 1)]


def test_nobody_is_overtaken_more_often_than_the_bound():
    """
    A request without a cached prefix is urgent after that many, though others still come.
    """
    bench = Bench(max_running=1, order=Order(max_overtaken=3))
    bench.serve(1, PROMPT)
    bench.add(2, [70, 71])
    for request_id in range(3, 13):
        bench.add(request_id, PROMPT)
        bench.step()

    assert bench.order_of_admission()[:5] == [1, 3, 4, 5, 2]


def test_higher_priority_goes_first_and_yields_last():
    """
    Whatever is cached, and however few outputs it has.
    """
    bench = Bench(num_pages=5, max_running=2)
    bench.add(1, [1] * 4, 12)
    for _ in range(3):
        bench.step()
    bench.add(2, [2] * 4, 12)
    bench.add(3, [3] * 4, 12, priority=1)
    while not bench.scheduler.num_retracted:
        bench.step()

    assert bench.requests[3].state is State.RUNNING
    assert bench.requests[1].state is bench.requests[2].state is State.WAITING
    bench.run()
    assert all(r.output_ids == expected_output(r.prompt_ids, 12) for r in bench.requests.values())


def test_a_retracted_request_goes_before_those_with_a_longer_prefix():
    """
    It was admitted before, and its client has been reading.
    """
    bench = Bench(max_running=1)
    bench.serve(1, PROMPT)
    retracted = bench.add(2, [70, 71], 9)
    bench.step()
    bench.add(3, PROMPT)
    bench.scheduler._retract(retracted)

    assert bench.step() == [(2, 0, 3)]


def test_nobody_passes_an_urgent_request_that_waits_for_a_prefix():
    """
    What it waits for is being computed, so it does not wait for long.
    """
    for max_overtaken, expected in ((0, [(1, 10, 10)]), (1, [(1, 10, 10), (3, 0, 1)])):
        bench = Bench(budget=21, order=Order(max_overtaken=max_overtaken))
        bench.add(1, range(100, 120))
        bench.scheduler.limits = Limits(4, 500, 10)
        bench.step()
        bench.scheduler.limits = Limits(4, 500, 21)
        bench.add(2, [*range(100, 116), 7])
        bench.add(3, [9])

        assert bench.step() == expected


def test_admission_leaves_room_for_the_growth_that_it_expects():
    """
    With ratio 1 nobody is retracted; with ratio 0 as many are admitted as there is room for.
    """
    for ratio, num_running in ((1.0, 2), (0.5, 3), (0.0, 4)):
        bench = Bench(num_pages=9, ratio=ratio)
        for request_id in range(1, 5):
            bench.add(request_id, [request_id] * 4, 12)
        assert len(bench.step()) == num_running
        bench.run()
        assert (bench.scheduler.num_retracted > 0) == (ratio < 1)


def test_the_expected_growth_falls_and_jumps_at_a_retraction():
    """
    It falls to a floor step by step, and jumps to what the running ones have shown.
    """
    growth = GrowthEstimate()
    running = [make_request(1, [1], max_new_tokens=100)]
    assert growth.expected_tokens(running[0]) == 1 + 100 * INITIAL_RATIO
    for _ in range(1_000):
        growth.decay()
    assert growth.ratio == LEAST_RATIO
    running[0].output_ids = [5] * 40
    growth.jump(running)

    assert growth.ratio == pytest.approx((40 + 20) / 100)
    assert growth.expected_tokens(running[0]) == 41 + 36
    growth.reset()
    assert growth.ratio == INITIAL_RATIO
