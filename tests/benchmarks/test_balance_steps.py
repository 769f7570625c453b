import pytest

from benchmarks.balance_steps import live_figures


def step(start_s, late_ms=0.0, gap_ms=0.0, duration_ms=20.0):
    ranks = [{"dp_rank": 0, "kv_tokens": 300, "cost_ms": 10.0}]
    ranks += [{"dp_rank": 1, "kv_tokens": 100, "cost_ms": 5.0}]
    told = {"start_s": start_s, "duration_ms": duration_ms, "ranks": ranks}
    return told | {"late_ms": late_ms, "gap_ms": gap_ms}


def test_figures_are_of_the_rounds_that_began_in_the_window():
    """
    Level steps would take 10 ms, and half of the 15 that both add; KV is 300 over 200.
    """
    found = live_figures([step(0.9), step(1.0), step(1.9), step(2.0)], 2, 10.0, (1.0, 2.0))

    assert (found.num_rounds, found.step_ms) == (2, 20.0)
    assert (found.slowdown, found.kv_max_over_mean) == (20.0 / 17.5, 1.5)


def test_hidden_planning_is_told_beside_rounds_that_planning_made_late():
    """
    The third was late for a rank that came 8 ms after the round before: that is no planning.
    """
    rounds = [step(1.0), step(1.1, gap_ms=10), step(1.2, late_ms=8, gap_ms=10), step(1.3, 40, 40)]

    found = live_figures(rounds, 2, 10.0, (1.0, 2.0))

    assert (found.late_share, found.late_ms) == (0.25, 40.0)
    assert found.gap_share == pytest.approx((0 + 0.5 + 0.5 + 2) / 4)
