import random
from collections import Counter
from itertools import pairwise

import pytest

from balancer.policies.random_choice import RandomChoice
from tests.balancer.loads import ANY_REQUEST, by_tokens


def test_every_group_has_the_same_share_whatever_it_holds():
    """
    It looks at no figure.
    """
    policy, num_picks = RandomChoice(random.Random(7)), 30_000
    candidates = by_tokens(0, 1_000, 1_000_000)

    shares = Counter(policy.pick(candidates, ANY_REQUEST) for _ in range(num_picks))

    for rank in range(3):
        assert shares[rank] / num_picks == pytest.approx(1 / 3, abs=0.01)


def test_a_pick_tells_nothing_of_the_next():
    """
    Unlike turns: the same group follows itself in a third of all cases.
    """
    policy, num_picks = RandomChoice(random.Random(7)), 30_000
    candidates = by_tokens(0, 0, 0)
    picks = [policy.pick(candidates, ANY_REQUEST) for _ in range(num_picks)]

    repeats = sum(a == b for a, b in pairwise(picks))

    assert repeats / num_picks == pytest.approx(1 / 3, abs=0.01)
