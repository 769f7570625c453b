"""SGLang's method with its delays; times are in milliseconds here."""

import random

import pytest

from balancer.load import RequestShape
from balancer.policies.total_tokens import TotalTokens
from tests.balancer.loads import by_tokens, report

GROUPS = by_tokens(0, 0, 0)


class Reports:
    """What a ledger has of them."""

    def __init__(self, *reports):
        self.reports = reports


@pytest.fixture(name="policy")
def _policy():
    return TotalTokens(random.Random(0))


def tell(policy, ms, *kv_tokens, steps=1, **figures):
    """All groups report: so many tokens in use, at that time."""
    figures = {"running_requests": 5, "num_steps": steps, "sampled_ns": ms * 10**6} | figures
    policy.read(
        Reports(*(report(r, kv_used_tokens=kv, **figures) for r, kv in enumerate(kv_tokens)))
    )


def pick(policy, tokens=10, groups=GROUPS):
    return policy.pick(groups, RequestShape(tokens))


def test_the_fewest_tokens_win_and_ties_go_to_the_lowest_rank(policy):
    """
    As SGLang breaks them.
    """
    tell(policy, 100, 30, 10, 10)

    assert pick(policy) == 1


def test_what_was_sent_is_added_until_the_rank_publishes(policy):
    """
    Which overwrites it, whether the group has taken it in or not.
    """
    tell(policy, 100, 30, 10, 15, step_prefill_tokens=1)
    assert [pick(policy), pick(policy), pick(policy)] == [1, 2, 1]

    tell(policy, 120, 30, 10, 15, steps=2, step_prefill_tokens=1)
    assert pick(policy) == 1


def test_a_rank_that_has_not_published_since_keeps_what_was_sent_to_it(policy):
    """
    What was read before is skipped.
    """
    tell(policy, 100, 30, 10, 25)
    assert [pick(policy), pick(policy)] == [1, 1]

    tell(policy, 130, 30, 10, 25, steps=2)
    assert pick(policy) == 2


def test_figures_are_read_every_20_ms_as_requests_are_sent(policy):
    """
    What is published in between is not seen.
    """
    tell(policy, 100, 30, 10, 20)
    assert pick(policy, 1) == 1
    tell(policy, 119, 0, 10, 20, steps=2, step_prefill_tokens=1)
    assert pick(policy, 1) == 1

    tell(policy, 120, 0, 10, 20, steps=3, step_prefill_tokens=1)
    assert pick(policy, 1) == 0


def seen_at_step(policy, *steps):
    """Rank 0 reports as many tokens as it has made steps; what is seen of it in the end."""
    for step in steps:
        policy.watch([report(0, kv_used_tokens=step, running_requests=5, num_steps=step,
                             sampled_ns=step * 30 * 10**6)])  # fmt: skip
    policy.watch([report(1, sampled_ns=10**12)])
    seen = next(n for n in range(1, 200) if pick_of(policy, n) == 0)
    return seen - 1


def pick_of(policy, tokens):
    """Rank 0 if it is seen with fewer tokens than so many, else 1."""
    policy.watch([report(1, kv_used_tokens=tokens, sampled_ns=10**12 + tokens * 10**9)])
    return policy.pick(GROUPS[:2], RequestShape(0))


@pytest.mark.parametrize(
    ("steps", "published"),
    [
        (range(1, 48), 46),
        (range(1, 46), 31),
        ((1, 15, 17, 30, 31), 31),
        ((1, 14, 17), 17),
        ((1, 14, 21), 14),
        ((1, 14, 21, 22, 30, 31), 31),
        ((1, 80), 80),
    ],
)
def test_figures_are_those_of_the_step_that_published_or_the_nearest(policy, steps, published):
    """
    Every 15th from the first on, whichever reports were seen; later ones are not looked at.
    """
    assert seen_at_step(policy, *steps) == published


@pytest.mark.parametrize(
    ("steps", "figures", "is_seen"),
    [
        (15, {}, False),
        (16, {}, True),
        (2, {"step_prefill_tokens": 1}, True),
        (2, {"running_requests": 0}, True),
        (1, {}, False),
        (1, {"sampled_ns": 150 * 10**6}, True),
    ],
)
def test_a_scheduler_publishes_every_15_steps_or_when_something_happens(
    policy, steps, figures, is_seen
):
    """
    After a prefill, when it runs nothing, and every 50 ms while it is stalled.
    """
    tell(policy, 100, 30, 10, 20)
    pick(policy)
    tell(policy, 130, 0, 10, 20, **{"steps": steps} | figures)

    assert (pick(policy) == 0) == is_seen


def test_a_chunked_remainder_counts_nowhere_and_queued_prompts_do(policy):
    """
    In `holding_tokens` are both.
    """
    tell(policy, 100, 30, 30, 30, holding_tokens=5000)
    assert pick(policy) == 0
    policy.read(
        Reports(
            report(0, kv_used_tokens=30, holding_tokens=5000, waiting_requests=1, num_steps=20,
                   running_requests=1, sampled_ns=10**9),
        )
    )  # fmt: skip

    assert pick(policy) == 1


def test_before_any_report_what_was_sent_counts(policy):
    """
    From the lowest rank on.
    """
    assert [pick(policy) for _ in range(4)] == [0, 1, 2, 0]
