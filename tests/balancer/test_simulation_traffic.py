import random

import pytest

from balancer.simulation.step_time import Means, StepTime, load_of_rate, rate_for_load
from balancer.simulation.synthetic import SYNTHETIC, synthetic
from tests.balancer.simulated import traffic


def arrivals(asked, scale=1.0, seed=0):
    return asked.arrivals_s(scale, random.Random(seed))


def test_a_rate_scale_makes_arrivals_dense_from_0_on():
    """
    Four times the rate is a quarter of each gap.
    """
    asked = traffic((8.0, 1, 1), (12.0, 1, 1), (20.0, 1, 1))

    assert arrivals(asked, 4.0) == [0.0, 1.0, 3.0]


def test_requests_of_a_coarse_clock_are_spread_up_to_its_next_time():
    """
    Four at 0 and four at 10 s: none at the same time, none beyond the next, in order.
    """
    asked = traffic(*[(0.0, 1, 1)] * 4, *[(10.0, 1, 1)] * 4)

    times = arrivals(asked)

    assert times == sorted(set(times))
    assert max(times) < 20
    assert 1 <= sum(at < 10 for at in times) <= 5
    assert arrivals(asked, seed=0) == times != arrivals(asked, seed=1)


def test_a_few_equal_times_are_a_burst_and_stay_one():
    """
    Two of five share theirs.
    """
    asked = traffic((0.0, 1, 1), (1.0, 1, 1), (1.0, 1, 1), (2.0, 1, 1), (3.0, 1, 1))

    assert arrivals(asked) == [0.0, 1.0, 1.0, 2.0, 3.0]


def test_a_load_becomes_a_rate_by_littles_law():
    """
    10 tokens and 2 steps: 21 token-steps.  42 held need 4 requests, in steps of 10 + 42 + 40 ms.
    """
    means = Means.of(traffic((0.0, 10, 2)), computes_prompts=False)
    step = StepTime(10.0, 1.0, 10.0, 2.0)

    rate = rate_for_load(means, step, 42, num_groups=2)

    assert means == (21.0, 2.0, 0.0)
    assert rate == pytest.approx(2 * 42 / 21 / (0.010 + 0.042 + 0.040))
    assert load_of_rate(means, step, rate, num_groups=2) == pytest.approx(42)


def test_a_rate_beyond_what_groups_can_ever_do_has_no_load():
    """
    However much they hold, each step would have to be shorter than what a token costs.
    """
    means = Means.of(traffic((0.0, 10, 2)), computes_prompts=True)

    assert load_of_rate(means, StepTime(10.0, 1.0, 10.0, 2.0), 1e9, 1) == float("inf")


@pytest.mark.parametrize("name", SYNTHETIC)
def test_traffic_that_needs_no_file_is_always_the_same(name):
    """
    Also across processes: drawn from a seed of its own.
    """
    assert synthetic(name, 2, 10_000) == synthetic(name, 2, 10_000)
    assert synthetic(name, 2, 10_000).name == name


def test_as_many_clients_make_waves_as_hold_the_load():
    """
    A request of 800 + 800 tokens holds 1,200 on average.
    """
    assert synthetic("waves", 8, 12_000).num_clients == 80
