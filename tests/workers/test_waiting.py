import pytest

from tests.workers.fakes import SlotRunner, expected_output, make_request
from tests.workers.scheduler_bench import Bench
from workers.engine.growth import INITIAL_RATIO, LEAST_RATIO, GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.request import State
from workers.engine.scheduler import Limits, Scheduler
from workers.engine.waiting import MAX_MATCHED, MAX_MATCHED_TOKENS, Order, SchedulePolicy

PROMPT = [*range(1, 13), 9]  # three full pages and a token


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
    while not any(r.account.num_retractions for r in bench.requests.values()):
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
        assert (bench.scheduler.totals.retractions > 0) == (ratio < 1)


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


class CountingCache(RadixCache):
    """Counts the tokens that it is asked about."""

    num_asked = 0

    def match(self, tokens):
        self.num_asked += len(tokens)
        return super().match(tokens)


def test_a_step_asks_about_a_bounded_number_of_waiting_tokens():
    """
    Long prompts wait, and the cache changes: those that were not looked at come next.
    """
    cache, length = CountingCache(4), MAX_MATCHED_TOKENS // 32
    scheduler = Scheduler(Limits(200, 200, 8), PagePool(length // 4 + 2, 4), cache)
    runner = SlotRunner(4)
    scheduler.add(make_request(0, [1] * 5, 64))
    for request_id in range(1, 101):
        scheduler.add(make_request(request_id, [2] * length))

    asked = []
    for _ in range(3):
        cache.insert([3 + len(asked)] * 4, scheduler.pool.take(1))
        cache.num_asked = 0
        scheduler.commit(plan := scheduler.plan(), runner.run(plan))
        asked.append(cache.num_asked // length)
    assert all(30 < number <= 33 for number in asked)
