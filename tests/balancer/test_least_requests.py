import random

import pytest

from balancer.load import GroupLoad
from balancer.policies.least_requests import LeastRequests
from tests.balancer.loads import ANY_REQUEST, by_requests


@pytest.fixture(name="policy")
def _policy():
    return LeastRequests(random.Random(0))


@pytest.mark.parametrize(("requests", "expected"), [((3, 1, 2), 1), ((0, 1, 1), 0), ((5, 5, 4), 2)])
def test_the_group_with_the_fewest_requests_is_taken(policy, requests, expected):
    """
    Every time, for there is no tie.
    """
    candidates = by_requests(*requests)

    assert {policy.pick(candidates, ANY_REQUEST) for _ in range(5)} == {expected}


def test_requests_in_flight_weigh_as_much_as_those_held(policy):
    """
    Else all that arrives between two reports would go to one group.
    """
    candidates = [GroupLoad(0, 0, 0, 2, 0), GroupLoad(1, 0, 0, 0, 3)]

    assert policy.pick(candidates, ANY_REQUEST) == 0


def test_tokens_do_not_count(policy):
    """
    It is blind to length, and says so.
    """
    candidates = [GroupLoad(0, 90_000, 0, 1, 0), GroupLoad(1, 0, 0, 2, 0)]

    assert policy.pick(candidates, ANY_REQUEST) == 0
