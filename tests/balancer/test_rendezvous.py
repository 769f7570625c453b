import random
from collections import Counter

import pytest

from balancer.rendezvous import home

KEYS = [random.Random(seed).getrandbits(64) for seed in range(8000)]


@pytest.mark.parametrize("keys", [KEYS, range(8000)])
def test_every_group_is_home_to_about_as_many_keys(keys):
    """
    Even if keys are small numbers in a row.
    """
    homes = Counter(home(range(8), key) for key in keys)

    assert min(homes.values()) > 0.85 * 1000
    assert max(homes.values()) < 1.15 * 1000


def test_a_group_that_goes_takes_only_its_own_keys_elsewhere():
    """
    And to all of the others.
    """
    left = [rank for rank in range(8) if rank != 5]
    before, after = ([home(ranks, key) for key in KEYS] for ranks in (range(8), left))

    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert all(old == new or old == 5 for old, new in zip(before, after, strict=True))
    assert set(moved) == set(left)


def test_the_order_of_groups_does_not_matter():
    """
    Front doors may list them as they like.
    """
    assert all(home([0, 1, 2], key) == home([2, 0, 1], key) for key in KEYS[:100])
