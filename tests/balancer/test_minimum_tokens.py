import random

import pytest

from balancer.load import GroupLoad
from balancer.policies.minimum_tokens import MinimumTokens
from tests.balancer.loads import ANY_REQUEST, by_tokens


@pytest.fixture(name="policy")
def _policy():
    return MinimumTokens(random.Random(0))


@pytest.mark.parametrize(
    ("tokens", "expected"), [((3, 1, 2), 1), ((0, 1, 1), 0), ((5, 5, 4), 2), ((-1, 0, 0), 0)]
)
def test_the_group_with_the_fewest_tokens_is_taken(policy, tokens, expected):
    """
    Every time, for there is no tie.
    """
    candidates = by_tokens(*tokens)

    assert {policy.pick(candidates, ANY_REQUEST) for _ in range(5)} == {expected}


def test_tokens_in_flight_weigh_as_much_as_those_held(policy):
    """
    What is on its way to a group will be held there.
    """
    candidates = [GroupLoad(0, 100, 50, 0, 0), GroupLoad(1, 0, 149, 0, 0)]

    assert policy.pick(candidates, ANY_REQUEST) == 1


def test_requests_do_not_count(policy):
    """
    Ninety short requests are less than one long one.
    """
    candidates = [GroupLoad(0, 90, 0, 90, 0), GroupLoad(1, 91, 0, 1, 0)]

    assert policy.pick(candidates, ANY_REQUEST) == 0
