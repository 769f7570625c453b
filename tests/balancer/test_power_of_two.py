import random
from collections import Counter

import pytest

from balancer.load import GroupLoad
from balancer.policies.power_of_two import PowerOfTwo
from tests.balancer.loads import ANY_REQUEST, by_tokens


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((0, 0, 0), (1 / 3, 1 / 3, 1 / 3)),  # no difference: uniform
        ((50, 0, 0), (0, 1 / 2, 1 / 2)),  # the fullest loses every pair
        ((0, 10, 20), (2 / 3, 1 / 3, 0)),  # order decides, not the distance
    ],
)
def test_share_of_each_group_is_what_the_pairs_predict(tokens, expected):
    """
    Over many picks each group's share matches the chance of winning its pairs.
    """
    policy, candidates, num_picks = PowerOfTwo(random.Random(7)), by_tokens(*tokens), 30_000

    shares = Counter(policy.pick(candidates, ANY_REQUEST) for _ in range(num_picks))

    for rank, share in enumerate(expected):
        assert shares[rank] / num_picks == pytest.approx(share, abs=0.01)


def test_tokens_in_flight_weigh_as_much_as_those_held():
    """
    Of two groups, the one with less in both together always wins.
    """
    policy = PowerOfTwo(random.Random(0))
    candidates = [GroupLoad(0, 100, 50, 0, 0), GroupLoad(1, 0, 149, 0, 0)]

    assert {policy.pick(candidates, ANY_REQUEST) for _ in range(20)} == {1}
