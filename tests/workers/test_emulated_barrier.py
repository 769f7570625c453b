import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.emulation.barrier import Barrier
from workers.emulation.step_cost import StepCost, StepShare

COST = StepCost(10.0, 0.01, 1.0, 0.1)  # milliseconds


def share(kv_tokens=0, requests=1, prefill_tokens=0):
    return StepShare(kv_tokens, requests, prefill_tokens)


class Together:
    """A barrier where ranks 0 and 1 have been released together, at self.now_s."""

    def __init__(self):
        self.barrier = Barrier(COST)
        self.barrier.arrive(0, share(), 0.0)
        self.barrier.arrive(1, share(), 0.0)  # the round of rank 0 has begun
        self.barrier.close(0.011)
        self.barrier.arrive(0, share(), 0.011)
        closed = self.barrier.close(0.022)
        assert closed.released == {0, 1}
        self.now_s = 0.022


@pytest.fixture(name="together")
def _together():
    return Together()


def test_a_round_lasts_the_base_and_what_the_slowest_rank_adds(together):
    """
    Milliseconds: 10 + max(1 + 0.01 * 500 + 0.1 * 20, 3).
    """
    together.barrier.arrive(1, share(kv_tokens=500, prefill_tokens=20), together.now_s)
    together.barrier.arrive(0, share(requests=3), together.now_s)

    assert together.barrier.close(together.now_s + 0.0179) is None
    closed = together.barrier.close(together.now_s + 0.0181)

    assert closed.round.duration_ms == pytest.approx(18.0)
    assert closed.released == {0, 1}


def test_a_round_begins_with_the_last_of_those_who_are_in(together):
    """
    One that has been released, and said nothing, is awaited.
    """
    together.barrier.arrive(0, share(), together.now_s)
    assert together.barrier.due_s is None

    together.barrier.arrive(1, share(), together.now_s)

    assert together.barrier.due_s is not None


def test_who_rests_or_dies_is_not_awaited(together):
    """
    Leaving is what begins the round of those who wait.
    """
    together.barrier.arrive(0, share(), together.now_s)

    together.barrier.leave(1, together.now_s)

    assert together.barrier.close(1.0).released == {0}


def test_who_comes_during_a_round_is_in_the_next_one(together):
    """
    As for a collective that has begun without it.
    """
    barrier, now_s = together.barrier, together.now_s
    barrier.leave(1, now_s)
    barrier.arrive(0, share(), now_s)
    barrier.arrive(1, share(), now_s + 0.005)

    assert barrier.close(now_s + 0.011).released == {0}
    barrier.arrive(0, share(), now_s + 0.011)
    assert barrier.close(now_s + 0.022).released == {0, 1}


def test_planning_takes_nothing_from_steps_that_follow_each_other(together):
    """
    The round counts from the end of the one before, for as long as that is possible.
    """
    together.barrier.arrive(0, share(), together.now_s + 0.003)
    together.barrier.arrive(1, share(), together.now_s + 0.009)

    assert together.barrier.due_s == pytest.approx(together.now_s + 0.011)
    began = together.barrier.close(1.0).round
    assert (began.late_ms, began.gap_ms) == (0.0, pytest.approx(9.0))


def test_a_round_counts_from_no_earlier_than_a_rank_came_that_was_out(together):
    """
    Rank 1 had nothing to plan until 8 ms after the round; whoever went does not matter.
    """
    barrier, now_s = together.barrier, together.now_s
    barrier.leave(1, now_s + 0.001)
    barrier.arrive(2, share(), now_s + 0.007)
    barrier.arrive(1, share(), now_s + 0.008)
    barrier.arrive(3, share(), now_s + 0.009)
    barrier.leave(3, now_s + 0.009)
    barrier.arrive(0, share(), now_s + 0.0095)

    assert barrier.due_s == pytest.approx(now_s + 0.008 + 0.011)
    began = barrier.close(1.0).round
    assert (began.late_ms, began.gap_ms) == (pytest.approx(8.0), pytest.approx(9.5))


def test_a_rank_that_waits_through_a_round_holds_up_nothing_after_it(together):
    """
    It had come before the end that the next one counts from.
    """
    barrier, now_s = together.barrier, together.now_s
    barrier.leave(1, now_s)
    barrier.arrive(0, share(), now_s)
    barrier.arrive(1, share(), now_s + 0.005)
    barrier.close(now_s + 0.011)

    barrier.arrive(0, share(), now_s + 0.015)

    assert barrier.due_s == pytest.approx(now_s + 0.022)


def test_planning_that_takes_longer_than_a_step_is_told(together):
    """
    The round then counts from the moment at which all were there.
    """
    together.barrier.arrive(0, share(), together.now_s)
    together.barrier.arrive(1, share(), together.now_s + 0.030)

    assert together.barrier.due_s == pytest.approx(together.now_s + 0.041)
    began = together.barrier.close(1.0).round
    assert (began.late_ms, began.gap_ms) == (pytest.approx(30.0), pytest.approx(30.0))


def test_after_a_pause_of_all_a_round_begins_when_somebody_comes(together):
    """
    Nobody was late: there was nothing to compute.
    """
    together.barrier.leave(0, together.now_s)
    together.barrier.leave(1, together.now_s)

    together.barrier.arrive(1, share(), 5.0)

    assert together.barrier.due_s == pytest.approx(5.011)
    began = together.barrier.close(6.0).round
    assert (began.late_ms, began.gap_ms) == (0.0, 0.0)


def test_a_rank_that_dies_in_a_round_is_not_released_and_not_awaited(together):
    """
    The round keeps its length, and the next one begins without it.
    """
    barrier, now_s = together.barrier, together.now_s
    barrier.arrive(0, share(), now_s)
    barrier.arrive(1, share(kv_tokens=1000), now_s)
    barrier.leave(1, now_s + 0.001)

    closed = barrier.close(now_s + 0.021)
    barrier.arrive(0, share(), now_s + 0.021)

    assert (closed.released, closed.round.duration_ms) == ({0}, pytest.approx(21.0))
    assert barrier.due_s is not None


def test_a_rank_that_comes_back_during_its_round_waits_for_the_next(together):
    """
    Its connection was lost and made again: the release of the old one is not its.
    """
    barrier, now_s = together.barrier, together.now_s
    barrier.arrive(0, share(), now_s)
    barrier.arrive(1, share(), now_s)
    barrier.leave(1, now_s + 0.001)
    barrier.arrive(1, share(), now_s + 0.002)

    assert barrier.close(now_s + 0.011).released == {0}
    barrier.leave(0, now_s + 0.011)
    assert barrier.close(now_s + 0.022).released == {1}


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["arrive", "leave", "time"]), st.floats(0, 0.03)),
    max_size=60,
)


@given(EVENTS)
def test_nobody_waits_for_ever_and_rounds_never_overlap(events):
    """
    Whatever ranks do: once all others have left, time alone releases who waits.
    """
    barrier, now_s, waiting, last_end_s = Barrier(COST), 0.0, set(), 0.0
    for rank, what, pause_s in events:
        now_s += pause_s
        closed = barrier.close(now_s)
        if closed is not None:
            assert closed.released <= waiting
            assert closed.round.start_s >= last_end_s
            waiting -= closed.released
            last_end_s = closed.round.end_s
        if what == "arrive" and rank not in waiting:
            barrier.arrive(rank, share(), now_s)
            waiting.add(rank)
        elif what == "leave":
            barrier.leave(rank, now_s)
            waiting.discard(rank)
    for rank in {0, 1, 2} - waiting:
        barrier.leave(rank, now_s)
    while waiting:
        assert barrier.due_s is not None
        now_s = max(now_s, barrier.due_s)
        released = barrier.close(now_s).released
        waiting -= released
        for rank in released:
            barrier.leave(rank, now_s)


@pytest.mark.parametrize(
    "text", ["", "25", "25,1,1", "0,0,0,0", "25,-1,0,0", "25,x,0,0", "nan,0,0,0"]
)
def test_a_step_cost_that_is_none_is_refused(text):
    """
    Four numbers, none of them negative, and a base.
    """
    with pytest.raises(ValueError, match=r".*"):
        StepCost.parse(text)


def test_a_step_cost_is_read_as_the_simulator_writes_it():
    """
    Base first, then a, b and c.
    """
    assert StepCost.parse("25,2.6e-05,0.075,0.1") == StepCost()
