"""The step-time law, on cells whose truth is known."""

import random

import pytest

from benchmarks.step_law import Cell, Load, fit_both, fit_largest, fit_sum

BASE_MS, A, B, C = 20.0, 5e-3, 0.5, 0.1


def cost(load):
    return A * load.kv_tokens + B * load.requests + C * load.prefill_tokens


def drawn(num_cells=80, seed=0):
    """Two groups that have nothing to do with each other."""
    draw = random.Random(seed)
    each = [
        (draw.choice((0, 500, 4000)), draw.choice((1, 4, 16)), draw.choice((0, 64)))
        for _ in range(2 * num_cells)
    ]
    return list(zip(map(Load._make, each[::2]), map(Load._make, each[1::2]), strict=True))


def test_steps_that_take_as_long_as_the_largest_group_fit_it_and_not_the_sum():
    """
    With the coefficients that they have.
    """
    cells = [Cell(loads, BASE_MS + max(map(cost, loads))) for loads in drawn()]
    law = fit_largest(cells)

    assert law.r_squared > 0.999
    assert (law.base_ms, *law.weights_ms) == pytest.approx((BASE_MS, A, B, C), rel=1e-3)
    assert fit_sum(cells).r_squared < 0.95


def test_steps_that_take_as_long_as_all_groups_together_fit_the_sum_and_not_the_largest():
    """
    With the coefficients that they have.
    """
    cells = [Cell(loads, BASE_MS + sum(map(cost, loads))) for loads in drawn()]
    law = fit_sum(cells)

    assert law.r_squared > 0.999
    assert (law.base_ms, *law.weights_ms) == pytest.approx((BASE_MS, A, B, C), rel=1e-3)
    assert fit_largest(cells).r_squared < 0.95


def test_where_one_term_follows_the_largest_and_another_the_sum_both_say_which():
    """
    Contexts are read by their own group, prompts are computed by all.
    """

    def step_ms(loads):
        largest = max(A * load.kv_tokens + B * load.requests for load in loads)
        return BASE_MS + largest + C * sum(load.prefill_tokens for load in loads)

    law = fit_both([Cell(loads, step_ms(loads)) for loads in drawn(300)])

    of_largest, of_sum = law.weights_ms[:3], law.weights_ms[3:]
    assert of_largest[0] > 5 * abs(of_sum[0])
    assert of_sum[2] > 5 * abs(of_largest[2])


def test_an_exact_fit_has_no_error():
    """
    The error is of predictions, as a part of what was measured.
    """
    cells = [Cell(loads, BASE_MS + max(map(cost, loads))) for loads in drawn()]

    assert fit_largest(cells).error == pytest.approx(0, abs=1e-9)
    assert fit_sum(cells).error > 0.01
