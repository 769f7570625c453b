"""What every policy keeps to, and the way from a name to a policy."""

import random
from collections import Counter

import pytest

from balancer.errors import UnknownMethod
from balancer.load import GroupLoad
from balancer.methods import DEFAULT_METHOD, METHODS, make_policy
from tests.balancer.loads import ANY_REQUEST, by_tokens

every_method = pytest.mark.parametrize("method", METHODS)


def random_loads(rng):
    """Some of eight groups, with loads among which ties are common."""
    ranks = sorted(rng.sample(range(8), rng.randint(1, 8)))
    return [GroupLoad(rank, *(rng.randint(0, 2) for _ in range(4))) for rank in ranks]


def test_the_methods_are_those_of_the_command_line():
    """
    Spelled as in the documents, with the one that stands for the best as the default.
    """
    by_figures = {"round_robin", "random", "least_requests", "power_of_two", "minimum_tokens"}
    by_cost = {"auto", "min_step_cost", "slack_affinity", "session"}
    others = {"total_tokens", "vllm_score"}

    assert set(METHODS) == by_figures | by_cost | others
    assert DEFAULT_METHOD == "auto"


@every_method
def test_a_method_is_called_what_its_policy_is(method):
    """
    Metrics and flags use the same word.
    """
    assert make_policy(method, random.Random(0)).name == method


def test_an_unknown_method_is_refused_with_the_known_ones():
    """
    A typing error is answered with what may be typed.
    """
    with pytest.raises(UnknownMethod, match=r"'fastest': allowed are auto, min_step_cost, slack"):
        make_policy("fastest", random.Random(0))


@every_method
def test_only_a_candidate_is_picked(method):
    """
    Whatever the loads, and whichever groups are missing.
    """
    rng = random.Random(1)
    policy = make_policy(method, rng)

    for _ in range(2_000):
        candidates = random_loads(rng)
        assert policy.pick(candidates, ANY_REQUEST) in {load.dp_rank for load in candidates}


@every_method
def test_a_single_candidate_is_picked(method):
    """
    With one group left there is nothing to choose between.
    """
    policy = make_policy(method, random.Random(0))

    assert [policy.pick([GroupLoad(5, 9, 9, 9, 9)], ANY_REQUEST) for _ in range(3)] == [5, 5, 5]


@every_method
def test_equals_get_equal_shares(method):
    """
    With nothing between them, as at every start, no group is preferred.
    """
    policy, num_picks = make_policy(method, random.Random(7)), 30_000
    candidates = by_tokens(0, 0, 0)

    shares = Counter(policy.pick(candidates, ANY_REQUEST) for _ in range(num_picks))

    for rank in range(3):
        assert shares[rank] / num_picks == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "total_tokens"])
def test_front_doors_do_not_all_begin_at_the_same_group(method):
    """
    Eight front doors that start together would send their first request to one group.
    """
    candidates = by_tokens(*[0] * 8)

    firsts = {
        make_policy(method, random.Random(s)).pick(candidates, ANY_REQUEST) for s in range(50)
    }

    assert len(firsts) == 8


@every_method
def test_one_seed_gives_one_sequence(method):
    """
    A run can be repeated: all chance comes from the random that was passed in.
    """
    loads = [random_loads(random.Random(seed)) for seed in range(200)]

    def sequence():
        policy = make_policy(method, random.Random(3))
        return [policy.pick(candidates, ANY_REQUEST) for candidates in loads]

    assert sequence() == sequence()
