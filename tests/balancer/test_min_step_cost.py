import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.cost_model import STEPS_OF_A_REQUEST, CostFit, StepCost
from balancer.load import GroupLoad, RequestShape
from balancer.policies.min_step_cost import MinStepCost
from tests.balancer.loads import ANY_REQUEST, by_tokens

COST = StepCost(0.001, 1.0, 0.1)


@pytest.fixture(name="policy")
def _policy():
    return MinStepCost(random.Random(0), CostFit(COST))


def always(policy, loads, request=ANY_REQUEST):
    (picked,) = {policy.pick(loads, request) for _ in range(5)}
    return picked


def test_tokens_and_requests_weigh_as_they_cost(policy):
    """
    A thousand tokens are as dear as one request.
    """
    assert always(policy, [GroupLoad(0, 9000, 0, 1, 0), GroupLoad(1, 1000, 0, 8, 0)]) == 1
    assert always(policy, [GroupLoad(0, 9000, 0, 1, 0), GroupLoad(1, 1000, 0, 10, 0)]) == 0


def test_prompts_that_are_still_to_be_computed_count(policy):
    """
    Whether they wait in the group or are on their way to it.
    """
    idle, busy = GroupLoad(0, 2000, 0, 2, 0), GroupLoad(1, 0, 100, 0, 1, uncached_tokens=100)

    assert always(policy, [idle, busy]) == 0


def test_equals_take_turns(policy):
    """
    Each as often as the others.
    """
    picks = Counter(policy.pick(by_tokens(7, 7, 7), ANY_REQUEST) for _ in range(300))

    assert picks == {0: 100, 1: 100, 2: 100}


def test_what_a_group_has_cached_counts_spread_over_the_steps_of_a_request(policy):
    """
    512 uncached tokens at 0.1 ms are worth 0.1 ms of each step, so 100 held tokens.
    """
    request = RequestShape(1000, cached_tokens=(STEPS_OF_A_REQUEST, 0))

    assert always(policy, by_tokens(99, 0), request) == 0
    assert always(policy, by_tokens(101, 0), request) == 1


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 5), min_size=1, max_size=8))
def test_nobody_is_cheaper_than_who_is_picked(figures):
    """
    Whatever the loads.
    """
    loads = [GroupLoad(rank, *one) for rank, one in enumerate(figures)]
    picked = MinStepCost(random.Random(0), CostFit(COST)).pick(loads, ANY_REQUEST)

    assert COST.cost_ms(loads[picked]) == min(map(COST.cost_ms, loads))
