"""vLLM's method with its delay; times are in milliseconds here."""

import random
from collections import Counter

import pytest

from balancer.ledger import Book
from balancer.load import RequestShape
from balancer.policies.vllm_score import VllmScore
from tests.balancer.loads import by_tokens, report

GROUPS = by_tokens(0, 0, 0)


class Believed:
    """What a ledger has."""

    def __init__(self, *reports, own=(0, 0, 0), num_front_doors=1):
        self.reports, self._own, self.num_front_doors = reports, own, num_front_doors

    def own_book(self, dp_rank):
        return Book(0, self._own[dp_rank])


@pytest.fixture(name="policy")
def _policy():
    return VllmScore(random.Random(0))


def tell(policy, ms, *loads, kv_usage=(0, 0, 0), **believed):
    """All engines report (waiting, running) and KV usage in percent at that time."""
    reports = (
        report(rank, waiting_requests=waiting, running_requests=running, sampled_ns=ms * 10**6,
               kv_used_tokens=kv_usage[rank], kv_capacity_tokens=100)
        for rank, (waiting, running) in enumerate(loads)
    )  # fmt: skip
    policy.read(Believed(*reports, **believed))


def picks(policy, count):
    return [policy.pick(GROUPS, RequestShape(10)) for _ in range(count)]


def test_the_fewest_waiting_and_running_win(policy):
    """
    Whatever their lengths.
    """
    tell(policy, 100, (0, 9), (2, 3), (1, 7))

    assert picks(policy, 1) == [1]


def test_what_was_sent_counts_until_the_next_list(policy):
    """
    As waiting, for as many as there are front doors, because the others send too.
    """
    tell(policy, 100, (0, 9), (0, 5), (0, 8), num_front_doors=2)
    assert picks(policy, 3) == [1, 1, 2]

    tell(policy, 199, (0, 0), (0, 5), (0, 8), num_front_doors=2)
    assert picks(policy, 1) != [0]

    tell(policy, 200, (0, 9), (0, 5), (0, 8), num_front_doors=2)
    assert picks(policy, 1) == [1]


def test_queues_weigh_more_where_the_cache_is_more_than_half_full(policy):
    """
    2 waiting at 90 % are 2 + 2 * 6 * 0.4 = 6.8; nobody waiting at 90 % are none.
    """
    tell(policy, 100, (2, 0), (0, 6), (0, 7), kv_usage=(90, 90, 0))
    assert picks(policy, 1) == [1]

    tell(policy, 200, (2, 0), (0, 7), (0, 8), kv_usage=(90, 90, 0))
    assert picks(policy, 1) == [0]


def test_own_open_requests_are_known_at_once(policy):
    """
    Times the number of front doors, if that is more than the list says.
    """
    tell(policy, 100, (0, 2), (0, 3), (0, 4), own=(3, 1, 1), num_front_doors=2)

    assert picks(policy, 1) == [1]


def test_equals_are_taken_from_a_start_that_goes_round(policy):
    """
    Each as often as the others.
    """
    first = [policy.pick(GROUPS, RequestShape(1)) for _ in range(300)]

    assert Counter(first) == {0: 100, 1: 100, 2: 100}


def test_old_reports_do_no_harm(policy):
    """
    Those of an earlier time or life; the list is of the newest.
    """
    tell(policy, 100, (0, 9), (0, 3), (0, 7))
    policy.watch([report(1, running_requests=50, sampled_ns=90 * 10**6)])
    policy.watch([report(2, running_requests=7, sampled_ns=210 * 10**6)])

    assert picks(policy, 1) == [1]
