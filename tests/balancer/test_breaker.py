"""One breaker: when it opens, whom it lets through, and when it closes again."""

import random

import pytest

from balancer.breaker import (
    JITTER,
    MAX_DOUBLINGS,
    MIN_OUTCOMES,
    Breaker,
    BreakerRules,
    BreakerState,
)

CLOSED, OPEN, HALF_OPEN = BreakerState
COOL_DOWN_NS, WINDOW_NS = 1_000, 10_000
RULES = BreakerRules(3, 2, COOL_DOWN_NS, WINDOW_NS)
LONGEST_NS = round(COOL_DOWN_NS * (1 + JITTER))


class Middle(random.Random):
    """No jitter."""

    def uniform(self, a, b):
        return (a + b) / 2


@pytest.fixture(name="breaker")
def _breaker():
    return Breaker(RULES, Middle())


def send(breaker, now_ns, *, good):
    """One request from its begin to its end, whether it may or not."""
    who = object()
    generation = breaker.enter(who)
    if good:
        generation = breaker.answered(who, generation, now_ns)
        breaker.succeeded(generation, now_ns)
    else:
        breaker.failed(generation, now_ns, "it broke")
    breaker.leave(who)


def opened(breaker, now_ns=0):
    for _ in range(3):
        send(breaker, now_ns, good=False)
    assert breaker.state is OPEN
    return breaker


def test_failures_in_a_row_open_it_and_say_why(breaker):
    """
    Two are not enough, and one that succeeds between them begins the row anew.
    """
    for good in (False, False, True, False, False):
        send(breaker, 0, good=good)
        assert breaker.is_passable(0)

    send(breaker, 0, good=False)

    assert not breaker.is_passable(0)
    assert breaker.why == "3 failed in a row, the last one: it broke"


def test_half_of_enough_requests_open_it_too(breaker):
    """
    Never three in a row.
    """
    for number in range(MIN_OUTCOMES - 1):
        send(breaker, number, good=bool(number % 2))
    assert breaker.state is CLOSED

    send(breaker, 30, good=False)

    assert breaker.state is OPEN
    assert breaker.why.startswith(f"11 of {MIN_OUTCOMES} in 1e-05 s failed")


def test_fewer_than_half_do_not(breaker):
    """
    One of three, for as long as one likes.
    """
    for number in range(300):
        send(breaker, number, good=bool(number % 3))

    assert breaker.state is CLOSED


def test_failures_of_an_earlier_window_count_for_nothing(breaker):
    """
    As many as were nearly enough.
    """
    for number in range(MIN_OUTCOMES - 1):
        send(breaker, 0, good=bool(number % 2))

    send(breaker, 2 * WINDOW_NS, good=False)

    assert breaker.state is CLOSED


def test_nobody_passes_until_the_cool_down_is_over_then_one_at_a_time(breaker):
    """
    The next probe may go when the one before has been answered, not when it has ended.
    """
    opened(breaker)
    assert not breaker.is_passable(COOL_DOWN_NS - 1)
    assert breaker.is_passable(COOL_DOWN_NS)
    first = object()
    generation = breaker.enter(first)
    assert not breaker.is_passable(COOL_DOWN_NS)

    breaker.answered(first, generation, COOL_DOWN_NS)

    assert breaker.is_passable(COOL_DOWN_NS)
    assert breaker.state is HALF_OPEN


def test_as_many_successes_as_are_asked_for_close_it(breaker):
    """
    Two, by the rules of these tests.
    """
    opened(breaker).is_passable(COOL_DOWN_NS)

    send(breaker, COOL_DOWN_NS, good=True)
    assert breaker.state is HALF_OPEN
    send(breaker, COOL_DOWN_NS, good=True)

    assert breaker.state is CLOSED


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit(breaker):
    """
    Sixteen times the first cool-down, however often it fails.
    """
    opened(breaker)
    now_ns, cool_downs = 0, []
    for _ in range(7):
        cool_downs.append(breaker.cool_down_ns)
        now_ns += breaker.cool_down_ns
        assert breaker.is_passable(now_ns)
        send(breaker, now_ns, good=False)
        assert breaker.state is OPEN

    assert cool_downs == [COOL_DOWN_NS << min(n, MAX_DOUBLINGS) for n in range(7)]


@pytest.mark.parametrize(("pause_ns", "doublings"), [(WINDOW_NS - 1, 1), (WINDOW_NS, 0)])
def test_one_that_fails_again_soon_after_it_was_closed_cools_down_for_longer(
    breaker, pause_ns, doublings
):
    """
    Else an engine that begins every answer, and breaks off, would be tried for ever.
    """
    opened(breaker).is_passable(COOL_DOWN_NS)
    for _ in range(2):
        send(breaker, COOL_DOWN_NS, good=True)

    opened(breaker, COOL_DOWN_NS + pause_ns)

    assert breaker.cool_down_ns == COOL_DOWN_NS << doublings


def test_what_began_before_it_opened_says_nothing_after(breaker):
    """
    A death is one failure, however many requests it takes with it, and late answers prove nothing.
    """
    late = [(who := object(), breaker.enter(who)) for _ in range(20)]
    opened(breaker)
    assert breaker.is_passable(COOL_DOWN_NS)

    for who, generation in late[:10]:
        breaker.failed(generation, COOL_DOWN_NS, "it broke")
        breaker.leave(who)
    assert breaker.state is HALF_OPEN
    for who, generation in late[10:]:
        breaker.answered(who, generation, COOL_DOWN_NS)
        breaker.succeeded(generation, COOL_DOWN_NS)

    assert breaker.state is HALF_OPEN


def test_a_stream_that_closed_it_and_then_breaks_off_is_a_failure_like_others(breaker):
    """
    It belongs to the state that it has brought about.
    """
    opened(breaker).is_passable(COOL_DOWN_NS)
    send(breaker, COOL_DOWN_NS, good=True)
    generation = breaker.answered(who := object(), breaker.enter(who), COOL_DOWN_NS)
    assert breaker.state is CLOSED

    breaker.failed(generation, COOL_DOWN_NS, "it broke")
    for _ in range(2):
        send(breaker, COOL_DOWN_NS, good=False)

    assert breaker.state is OPEN


def test_whoever_has_seen_it_recover_ends_the_cool_down(breaker):
    """
    It is tried then, not trusted; and a breaker that is closed does not care.
    """
    breaker.well_again("it answers")
    assert breaker.state is CLOSED
    opened(breaker)

    breaker.well_again("it answers")

    assert breaker.state is HALF_OPEN
    assert breaker.is_passable(0)


def test_what_nobody_else_could_take_counts_if_it_succeeds_and_not_if_it_fails(breaker):
    """
    Sent past the open breaker.
    """
    opened(breaker)
    send(breaker, 1, good=False)
    assert (breaker.state, breaker.is_passable(COOL_DOWN_NS - 1)) == (OPEN, False)

    send(breaker, 2, good=True)

    assert breaker.state is HALF_OPEN


def test_cool_downs_vary_by_a_fifth():
    """
    So that front doors do not try together.
    """
    rng = random.Random(3)
    lengths = {opened(Breaker(RULES, rng)).cool_down_ns for _ in range(50)}

    assert len(lengths) > 40
    assert all(abs(length - COOL_DOWN_NS) <= JITTER * COOL_DOWN_NS for length in lengths)
