import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.cost_model import PRIOR, CostFit
from balancer.load import GroupLoad, RequestShape
from balancer.policies.session import FREE_REQUESTS, MAX_OVER_MEAN, Session
from balancer.rendezvous import home
from tests.balancer.loads import by_tokens

KEYS = [random.Random(seed).getrandbits(64) for seed in range(500)]


@pytest.fixture(name="policy")
def _policy():
    return Session(random.Random(0), CostFit())


def of_session(key, tokens=100):
    return RequestShape(tokens, session_key=key)


def busy(*requests):
    return [GroupLoad(rank, 1000 * held, 0, held, 0) for rank, held in enumerate(requests)]


def test_a_session_stays_where_it_is(policy):
    """
    Though other groups are less loaded.
    """
    for key in KEYS:
        picks = {policy.pick(loads, of_session(key)) for loads in (busy(0, 0, 0), busy(3, 2, 1))}
        assert picks == {home(range(3), key)}


def test_a_home_that_computes_a_prompt_stays_the_home(policy):
    """
    That is over in some steps, and the session stays for many.
    """
    for key in KEYS:
        first = home(range(8), key)
        loads = [GroupLoad(rank, 200_000, 0, 50, 0, 8000 * (rank == first)) for rank in range(8)]
        assert policy.pick(loads, of_session(key)) == first


def test_a_group_that_dies_moves_only_its_own_sessions(policy):
    """
    When it is back, so are they.
    """
    before = [policy.pick(busy(9, 9, 9, 9), of_session(key)) for key in KEYS]
    without = [policy.pick(busy(9, 9, 9, 9)[:3], of_session(key)) for key in KEYS]
    after = [policy.pick(busy(9, 9, 9, 9), of_session(key)) for key in KEYS]

    assert before == after
    assert all(old in (new, 3) for old, new in zip(before, without, strict=True))
    assert {new for old, new in zip(before, without, strict=True) if old == 3} == {0, 1, 2}


def test_the_sessions_of_an_overloaded_group_go_elsewhere_and_each_to_one_place(policy):
    """
    To the next in its own order, as if the home were not there.
    """
    loads = busy(40, 8, 8, 8)
    for key in KEYS:
        expected = home(range(4), key)
        if expected == 0:
            expected = home((1, 2, 3), key)
        assert {policy.pick(loads, of_session(key)) for _ in range(3)} == {expected}


def test_a_few_requests_are_no_overload(policy):
    """
    Beside idle groups anything would be more than the mean.
    """
    loads = busy(FREE_REQUESTS - 1, 0, 0)

    assert {policy.pick(loads, of_session(key)) for key in KEYS} == {0, 1, 2}


def test_a_request_without_a_session_goes_where_it_costs_least(policy):
    """
    As with min_step_cost.
    """
    assert {policy.pick(by_tokens(5, 3, 9), RequestShape(100)) for _ in range(4)} == {1}


@given(
    st.lists(st.tuples(*[st.integers(0, 10**5)] * 5), min_size=1, max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(1, 10**5),
)
def test_no_session_overloads_a_group(figures, key, tokens):
    """
    Whoever is taken has few requests or is not far over the mean.
    """
    loads = [GroupLoad(rank, *one) for rank, one in enumerate(figures)]
    picked = Session(random.Random(0), CostFit()).pick(loads, of_session(key, tokens))

    costs, mine = PRIOR.steady_costs_ms(loads), PRIOR.request_ms(tokens)
    limit = MAX_OVER_MEAN * (sum(costs) / len(costs) + mine)
    assert loads[picked].requests < FREE_REQUESTS or costs[picked] + mine <= limit * (1 + 1e-9)
