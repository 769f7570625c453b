"""How many requests may be sent again."""

from balancer.retry_budget import CAPACITY, PER_SECOND, RetryBudget

SECOND_NS = 1_000_000_000


def spend(budget, number, now_ns=0):
    """Ask for so many; return how many there were."""
    granted = 0
    for _ in range(number):
        if budget.affords(now_ns):
            budget.withdraw()
            granted += 1
    return granted


def test_what_waited_in_one_engine_may_go_elsewhere_at_once():
    """
    A thousand requests, before anything else has happened.
    """
    assert spend(RetryBudget(20), 2_000) == CAPACITY


def test_in_the_long_run_only_a_share_of_requests_is_sent_again():
    """
    A fifth, where every request fails and asks for more, at one instant.
    """
    budget, granted = RetryBudget(20), 0
    spend(budget, 2_000)

    for _ in range(1_000):
        budget.deposit()
        granted += spend(budget, 3)

    assert granted in (199, 200)


def test_where_there_is_little_traffic_some_may_always_be_sent_again():
    """
    Three a second, of no requests at all; and not more after a long rest than it holds.
    """
    budget = RetryBudget(0)
    spend(budget, 2_000)

    assert [spend(budget, 9, n * SECOND_NS) for n in (1, 2, 3)] == [PER_SECOND] * 3
    assert spend(budget, 5_000, 3_600 * SECOND_NS) == CAPACITY
