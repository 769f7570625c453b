import random

from balancer.load import GroupLoad
from balancer.policies.round_robin import RoundRobin
from tests.balancer.loads import ANY_REQUEST, by_tokens


def picks(policy, candidates, count):
    return [policy.pick(candidates, ANY_REQUEST) for _ in range(count)]


def test_groups_are_taken_in_turn():
    """
    By dp_rank, round and round, from wherever it began.
    """
    first, *others = picks(RoundRobin(random.Random(0)), by_tokens(0, 9, 99), 7)

    assert others == [(first + turn) % 3 for turn in range(1, 7)]


def test_a_group_that_is_left_out_loses_only_its_own_turn():
    """
    The turn goes on above the last one taken, and comes back to who returns.
    """
    policy, everyone = RoundRobin(random.Random(0)), by_tokens(0, 0, 0)
    while policy.pick(everyone, ANY_REQUEST) != 0:
        pass
    without_1 = [load for load in everyone if load.dp_rank != 1]

    assert picks(policy, without_1, 3) == [2, 0, 2]
    assert picks(policy, everyone, 4) == [0, 1, 2, 0]


def test_loads_do_not_count():
    """
    Two groups take turns though one holds everything.
    """
    policy = RoundRobin(random.Random(0))
    loads = [GroupLoad(0, 1_000, 1_000, 10, 10), GroupLoad(1, 0, 0, 0, 0)]

    assert sorted(picks(policy, loads, 2)) == [0, 1]
