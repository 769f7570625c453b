import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.cost_model import PRIOR, STEPS_OF_A_REQUEST, CostFit, StepCost
from balancer.load import GroupLoad, RequestShape
from balancer.policies.min_step_cost import MinStepCost
from balancer.policies.slack_affinity import TOLERANCE, SlackAffinity
from balancer.rendezvous import home
from tests.balancer.loads import by_tokens

# A token that is held costs 1 ms of every step; one that is computed as much, spread over them.
BY_TOKENS = StepCost(1.0, 0.0, STEPS_OF_A_REQUEST)


def affine(cost=BY_TOKENS, seed=0):
    return SlackAffinity(random.Random(seed), CostFit(cost))


@pytest.fixture(name="policy")
def _policy():
    return affine()


def prompt(tokens, *cached):
    """A request of so many tokens, of which each group has so many cached."""
    return RequestShape(tokens, cached_tokens=cached)


def always(policy, loads, request):
    """The one group that is taken every time."""
    (picked,) = {policy.pick(loads, request) for _ in range(6)}
    return picked


def test_of_groups_that_stay_under_the_slowest_the_longest_match_is_taken(policy):
    """
    Though another has fewer tokens: under the maximum, tokens cost nobody anything.
    """
    loads = by_tokens(1000, 500, 600, 100)

    assert always(policy, loads, prompt(300, 0, 64, 128, 16)) == 2


def test_a_match_on_a_group_that_would_become_the_slowest_is_passed_over(policy):
    """
    The next best home is taken, and without one the fewest tokens.
    """
    loads = by_tokens(1000, 950, 600, 100)

    assert always(policy, loads, prompt(300, 256, 256, 16, 0)) == 2
    assert always(policy, loads, prompt(300, 256, 256, 0, 0)) == 3


def test_what_a_group_will_hold_counts_not_what_it_will_compute(policy):
    """
    Cached tokens are read at every step too: 990 + 300 is over 1040, although 990 + 44 is not.
    """
    assert always(policy, by_tokens(1040, 990, 100), prompt(300, 0, 256, 0)) == 2


@pytest.mark.parametrize("home", [0, 1, 2])
def test_a_fork_goes_home_when_all_are_idle(policy, home):
    """
    The maximum is zero, and still it costs least where its prefix is.
    """
    cached = [512 if rank == home else 0 for rank in range(3)]

    assert always(policy, by_tokens(0, 0, 0), prompt(520, *cached)) == home


def test_a_fork_goes_home_when_all_are_level(policy):
    """
    No group has slack then; at home it adds as many tokens as elsewhere, and computes fewer.
    """
    assert always(policy, by_tokens(5000, 5000, 5000), prompt(520, 0, 0, 512)) == 2


def test_a_fork_leaves_home_when_computing_its_prefix_elsewhere_is_cheaper(policy):
    """
    On the verge: home costs 3 % more than the rest, and then a little more than that.
    """
    fork = prompt(1000, 900, 0)

    assert always(policy, by_tokens(930, 0), fork) == 0  # 930 + 100 <= 1.03 * 1000
    assert always(policy, by_tokens(931, 0), fork) == 1


def test_somebodys_short_request_at_home_sends_no_fork_away(policy):
    """
    Only as much as the prefix costs does: as a prompt that has ended, but is reported still.
    """
    fork = prompt(534, 0, 0, 0, 512)

    assert always(policy, by_tokens(0, 12, 0, 13), fork) == 3
    assert always(policy, by_tokens(0, 12, 0, 528), fork) == 3  # 528 + 22 <= 1.03 * 534
    assert policy.pick(by_tokens(0, 12, 0, 533), fork) != 3


def test_without_a_cached_page_the_fewest_tokens_decide(policy):
    """
    Whether nothing is known, or nothing is held.
    """
    loads = by_tokens(5, 3, 9)

    assert always(policy, loads, RequestShape(100)) == 1
    assert always(policy, loads, prompt(100, 0, 0, 0)) == 1


def test_a_beginning_that_all_have_makes_no_difference(policy):
    """
    A system prompt that everybody knows must not bring disorder.
    """
    assert always(policy, by_tokens(900, 300, 500), prompt(200, 64, 64, 64)) == 1


def test_equal_homes_take_turns(policy):
    """
    Neither of them is preferred.
    """
    picks = Counter(policy.pick(by_tokens(0, 0, 0), prompt(100, 64, 0, 64)) for _ in range(100))

    assert picks == {0: 50, 2: 50}


def test_only_candidates_count(policy):
    """
    A group that may not be chosen is no home, however much it has.
    """
    loads = [GroupLoad(1, 10, 0, 0, 0), GroupLoad(3, 20, 0, 0, 0)]

    assert always(policy, loads, prompt(100, 96, 0, 96, 32)) == 3


LOADS = st.lists(st.integers(0, 4000), min_size=1, max_size=6)


@given(LOADS, st.integers(1, 3000), st.data())
def test_no_group_becomes_heavier_than_the_documents_say(loads, tokens, data):
    """
    At most the present maximum, or what the request costs on the least group and its cached part.
    """
    cached = [data.draw(st.integers(0, (tokens - 1) // 16)) * 16 for _ in loads]
    picked = affine().pick(by_tokens(*loads), prompt(tokens, *cached))

    bound = max(max(loads), (1 + TOLERANCE) * (min(loads) + tokens) + cached[picked])
    assert loads[picked] + tokens <= bound


@pytest.mark.parametrize("first_homes", [1, 2])
@pytest.mark.parametrize(("held", "tokens"), [(0, 50), (0, 2000), (20_000, 50), (20_000, 2000)])
def test_a_prefix_that_everybody_wants_does_not_pin_all_to_its_homes(
    policy, first_homes, held, tokens
):
    """
    Ten thousand forks that never end: all groups hold about as much, and nearly all found it.

    A home that may exceed the present maximum by 3 % raises it each time.
    """
    num_groups, num_forks = 8, 10_000
    loads = [held] * num_groups
    cached = [tokens // 16 * 16 - 16 if rank < first_homes else 0 for rank in range(num_groups)]
    num_found = 0
    for _ in range(num_forks):
        picked = policy.pick(by_tokens(*loads), prompt(tokens, *cached))
        num_found += cached[picked] > 0
        cached[picked] = tokens // 16 * 16 - 16
        loads[picked] += tokens

    assert max(loads) * num_groups / sum(loads) < 1.05
    assert num_found == num_forks - (num_groups - first_homes)


def hit_rate_and_level(policy, num_groups=8, num_forks=20_000):
    """Forks of 64 prefixes, each held until 200 later ones came; caches hold 12 prefixes each."""
    rng, loads, running = random.Random(5), by_tokens(*[0] * num_groups), []
    caches, num_found, ratios = [[] for _ in range(num_groups)], 0, []
    for _ in range(num_forks):
        family, tokens = rng.randrange(64), rng.randint(1000, 3000)
        cached = [960 if family in cache else 0 for cache in caches]
        picked = policy.pick(loads, prompt(tokens, *cached))
        num_found += cached[picked] > 0
        caches[picked] = [*(f for f in caches[picked] if f != family), family][-12:]
        loads[picked] = with_more(loads[picked], tokens, 1)
        running.append((picked, tokens))
        if len(running) > 200:
            rank, freed = running.pop(rng.randrange(len(running)))
            loads[rank] = with_more(loads[rank], -freed, -1)
            costs = PRIOR.costs_ms(loads)
            ratios.append(max(costs) * num_groups / sum(costs))
    return num_found / num_forks, sum(ratios) / len(ratios)


def with_more(load, tokens, requests):
    return load._replace(
        holding_tokens=load.holding_tokens + tokens, held_requests=load.held_requests + requests
    )


def test_forks_of_many_prefixes_find_theirs_and_groups_stay_level():
    """
    Several times as many hits as min_step_cost, and the heaviest group hardly heavier.
    """
    kept, affine_level = hit_rate_and_level(affine(PRIOR, seed=1))
    plain, plain_level = hit_rate_and_level(Blind(MinStepCost(random.Random(1), CostFit())))

    assert kept > 2.5 * plain
    assert affine_level < 1.05 * plain_level


class Blind:
    """A policy that is told nothing of what is cached."""

    def __init__(self, policy):
        self._policy = policy

    def pick(self, loads, request):
        return self._policy.pick(loads, request._replace(cached_tokens=()))


def test_a_long_prompt_that_is_computed_elsewhere_makes_no_room_to_stay(policy):
    """
    Its group is the slowest now, and will not be for long: 990 + 300 stays over 1000.
    """
    loads = [
        GroupLoad(0, 1000, 0, 0, 0, uncached_tokens=1000),
        GroupLoad(1, 990, 0, 0, 0),
        GroupLoad(2, 100, 0, 0, 0),
    ]

    assert always(policy, loads, prompt(300, 0, 256, 0)) == 2


def test_a_home_that_computes_long_prompts_is_passed_over(policy):
    """
    It has room, but the request would come sooner where it computes everything itself.
    """
    loads = [GroupLoad(0, 9000, 0, 0, 0), GroupLoad(1, 100, 0, 0, 0), GroupLoad(2, 90, 0, 0, 0)]
    request = prompt(300, 0, 256, 0)
    assert always(policy, loads, request) == 1

    loads[1] = loads[1]._replace(uncached_tokens=1000)
    assert always(policy, loads, request) == 2


def test_where_computing_costs_nothing_a_home_is_worth_nothing():
    """
    In a group that only decodes: level groups count, and slack under the slowest.
    """
    decoding = affine(StepCost(1.0, 0.0, 0.0))

    assert always(decoding, by_tokens(500, 0), prompt(1000, 900, 0)) == 1
    assert always(decoding, by_tokens(500, 0, 2000), prompt(1000, 900, 0, 0)) == 0


def test_where_no_pages_are_known_a_session_has_its_home_among_groups_with_slack(policy):
    """
    As long as that does not become the slowest.
    """
    keys = [random.Random(seed).getrandbits(64) for seed in range(200)]
    level, skewed = by_tokens(100, 100, 100), by_tokens(5000, 100, 100)
    for key in keys:
        request = RequestShape(50, session_key=key)
        assert always(policy, level, request) == home(range(3), key)
        assert always(policy, skewed, request) == home((1, 2), key)
