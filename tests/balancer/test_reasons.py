import random

import pytest

from balancer.cost_model import CostFit, StepCost
from balancer.load import GroupLoad, RequestShape
from balancer.methods import METHODS
from balancer.prefix_index import Change, PrefixEvent
from balancer.reasons import reason
from shm.group_table import GroupState
from tests.balancer.loads import GROUP_EPOCH, group, holding, observe
from tests.balancer.test_witness import DIGESTS, decided, made

FORK = RequestShape(170, page_digests=DIGESTS, page_size=16)


def caching(*held, method="slack_affinity", tokens=(0, 0, 0)):
    """Three groups; each has so many pages of the fork cached, and holds so many tokens."""
    controller = made(method, 3)
    observe(controller, *[holding(r, t, 1, sampled_ns=4) for r, t in enumerate(tokens)], now_ns=5)
    for rank, num_pages in enumerate(held):
        stored = PrefixEvent(Change.STORED, DIGESTS[:num_pages])
        controller.observe_prefix(rank, GROUP_EPOCH, stored)
    return controller


def test_the_least_is_told_with_who_came_closest():
    """
    Both figures, and whose the other one is.
    """
    controller = made("minimum_tokens", 3)
    observe(controller, holding(0, 1204, sampled_ns=4), holding(2, 99_000, sampled_ns=4))
    observe(controller, holding(1, 812, sampled_ns=4), now_ns=5)

    assert reason(decided(controller)) == (
        "least holding + in-flight: 812 v 1,204 tokens (DP group 0)"
    )


def test_figures_that_differ_are_written_so_that_they_do():
    """
    Four digits are enough, unless they would make equals of what is not.
    """
    controller = made("min_step_cost", 2)
    observe(controller, *[holding(r, 10_000_000 + r, 1, sampled_ns=4) for r in (0, 1)], now_ns=5)

    assert reason(decided(controller)) == ("least step cost: 260.05 v 260.05003 ms (DP group 1)")


def test_equals_are_told_to_take_turns():
    """
    How many there are, and what all have.
    """
    controller = made("least_requests", 3)

    assert reason(decided(controller)) == ("fewest requests: 1, as 2 others have: they take turns")


def test_a_longest_match_is_told_with_its_length():
    """
    And that it was chosen among those that have slack.
    """
    assert reason(decided(caching(10, 4, 0, tokens=(0, 0, 20_000_000)), FORK)) == (
        "longest prefix match, 160 of 170 tokens: of the 2 groups with a match and slack"
    )


def test_a_longer_match_that_was_passed_over_is_told():
    """
    Whose it is, and why it did not count; with another match, and with none.
    """
    busy = (20_000_000, 0, 0)
    passed = "; DP group 0 has 160 tokens of the prompt cached, but the request would make it the "
    with_another = reason(decided(caching(10, 4, 0, tokens=busy), FORK))
    with_none = reason(decided(caching(10, 0, 0, tokens=busy), FORK))

    assert with_another.startswith("longest prefix match, 64 of 170 tokens: the only group")
    assert with_another.endswith(passed + "slowest")
    assert with_none.startswith("least step cost: ")
    assert with_none.endswith(passed + "slowest")


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("round_robin", "its turn"),
        ("random", "drawn, each group with the same chance"),
        ("session", "home of the request's session"),
    ],
)
def test_what_compares_nothing_says_so(method, told):
    """
    No figures are made up where none were looked at.
    """
    shape = RequestShape(9, session_key=77)

    assert reason(decided(made(method, 3), shape)) == told


def test_an_overloaded_home_is_told():
    """
    With how many others are.
    """
    controller = made("session", 3)
    first = controller.assign(RequestShape(9, session_key=5)).dp_rank
    observe(controller, holding(first, 9_000_000, 50, sampled_ns=4), now_ns=5)

    assert reason(decided(controller, RequestShape(9, session_key=5))) == (
        "next in the order of the request's session: its home is overloaded, as 1 of 3 groups are"
    )


def test_a_home_is_told_to_be_one_of_all_or_of_those_with_slack():
    """
    Under `session` it is the home of all, whoever else is overloaded; under `auto` of those asked.
    """
    shape = RequestShape(9, session_key=5)
    controller = made("session", 3)
    other = (controller.assign(shape).dp_rank + 1) % 3
    observe(controller, holding(other, 9_000_000, 50, sampled_ns=4), now_ns=5)
    with_slack = made("auto", 3)
    observe(with_slack, holding(0, 20_000_000, 50, sampled_ns=4), now_ns=5)

    assert reason(decided(controller, shape)) == "home of the request's session"
    assert reason(decided(with_slack, shape)) == (
        "home of the request's session among the 2 of 3 groups with slack"
    )


def test_of_published_tokens_that_are_equal_what_decided_is_told():
    """
    The lowest number while all is equal, then the fewer requests.
    """
    controller = made("total_tokens", 3)
    told = [reason(decided(controller, RequestShape(0))) for _ in range(3)]

    assert told == [
        "fewest tokens, as published last: 0, as 2 others have: it has the lowest number",
        "fewest tokens, as published last: 0, as another has: it has the lowest number",
        "fewest tokens, as published last: 0, as DP group 0 has, but fewer requests",
    ]


def test_of_many_groups_the_one_that_came_closest_is_named():
    """
    Though most have the same, and lower numbers.
    """
    controller = made("least_requests", 20)
    most = [holding(rank, 0, 5, sampled_ns=4) for rank in range(18)]
    least = [holding(18, 0, 2, sampled_ns=4), holding(19, 0, 1, sampled_ns=4)]
    observe(controller, *most, *least, now_ns=5)

    assert reason(decided(controller)) == "fewest requests: 1 v 2 (DP group 18)"


def test_two_that_were_drawn_are_told():
    """
    Only the other one of the two is named, whoever else there is.
    """
    told = reason(decided(made("power_of_two", 2)))

    assert told == "fewer tokens of two that were drawn: 0 v 10 (DP group 1)"

    level = made("power_of_two", 2)
    observe(level, *[holding(rank, 50, 1, sampled_ns=4) for rank in range(2)], now_ns=5)
    decision = decided(level)
    other = 1 - decision.dp_rank
    assert reason(decision) == f"drawn before DP group {other}, which has 50 tokens, too"


def test_an_order_of_the_client_and_a_want_of_others_are_told():
    """
    So is it that only suspect groups were left.
    """
    controller = made("minimum_tokens", 3)
    asked = reason(decided(controller, RequestShape(9, dp_rank=1)))
    assert asked == "asked for by X-Data-Parallel-Rank"
    controller.observe_group(group(1, GroupState.SUSPECT))
    asked = reason(decided(controller, RequestShape(9, dp_rank=1)))
    assert asked == "asked for by X-Data-Parallel-Rank, though it is suspect"
    controller.observe_group(group(1))
    assert reason(decided(controller, excluded=(0, 2))) == "the only group that could take it"

    for rank in range(3):
        controller.observe_group(group(rank, GroupState.SUSPECT))
    assert reason(decided(controller)).endswith(
        "; no ready group could take it, so suspect ones were candidates"
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_groups", [1, 2, 7, 40])
def test_there_is_a_reason_for_every_decision(method, num_groups):
    """
    A sentence without its full stop, whatever the figures are.
    """
    controller, rng = made(method, num_groups), random.Random(3)
    for _ in range(60):
        key = rng.choice([None, rng.getrandbits(8)])
        pages = DIGESTS[: rng.randint(0, 9)] if key is None else ()
        shape = RequestShape(rng.randint(200, 9000), pages, 16, session_key=key)
        told = reason(decided(controller, shape))

        assert len(told) > 5
        assert not told.endswith(".")


def test_the_costs_of_a_step_are_those_that_the_policy_compared():
    """
    What is told of a match is D + c * u / S, of all others L less what the prefix saves.
    """
    cost = CostFit().step_cost
    assert isinstance(cost, StepCost)
    fallen_back = decided(caching(0, 0, 0, tokens=(500, 300, 900)), FORK)
    matched = decided(caching(10, 0, 0), FORK)

    loads = [GroupLoad(rank, held, 0, 1, 0) for rank, held in enumerate((500, 300, 900))]
    assert [each.cost for each in fallen_back.candidates] == cost.costs_ms(loads)
    uncached = [10, 170, 170]
    empty = cost.steady_costs_ms([GroupLoad(0, 0, 0, 1, 0)])[0]
    assert [each.cost for each in matched.candidates] == pytest.approx(
        [empty + cost.spread_prefill_ms * tokens for tokens in uncached]
    )
