import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.cost_model import (
    LEAST_R_SQUARED,
    MAX_PREFILL_RATIO,
    MAX_REQUEST_RATIO,
    PRIOR,
    WINDOW,
    CostFit,
    StepCost,
)
from balancer.load import GroupLoad
from shm.load import Accepted
from tests.balancer.loads import EPOCH, report

TRUE = StepCost(5e-5, 0.06, 0.2)
BASE_MS = 20.0


class Groups:
    """Groups whose steps take what `true` says; their loads walk about."""

    def __init__(self, true, *, wait, num_groups=8, prefill=0.05, noise=0.02, seed=0):
        self._rng, self._true, self._wait = random.Random(seed), true, wait
        self._prefill, self._noise = prefill, noise
        self._kv, self._requests = [50_000] * num_groups, [30] * num_groups
        self._num_steps = 0

    def step(self):
        rng, self._num_steps = self._rng, self._num_steps + 1
        loads = []
        for rank in range(len(self._kv)):
            self._kv[rank] = max(0, self._kv[rank] + rng.randint(-6000, 6000))
            self._requests[rank] = max(1, self._requests[rank] + rng.randint(-3, 3))
            prefill = rng.randint(100, 2000) if rng.random() < self._prefill else 0
            loads.append((self._kv[rank], self._requests[rank], prefill))
        times = [BASE_MS + sum(map(float.__mul__, self._true, map(float, one))) for one in loads]
        if self._wait:
            times = [max(times) * (1 + rng.gauss(0, self._noise))] * len(times)
        return [self._report(rank, *one) for rank, one in enumerate(zip(loads, times, strict=True))]

    def _report(self, rank, load, step_ms):
        return said(rank, *load, step_ms, self._num_steps)


def said(rank, kv, requests, prefill, step_ms, num_steps, accepted=0):
    return report(
        rank,
        sampled_ns=num_steps * 10_000_000,
        kv_used_tokens=kv,
        running_requests=requests,
        step_prefill_tokens=prefill,
        step_time_ns=round(step_ms * 1e6),
        num_steps=num_steps,
        accepted=(Accepted(EPOCH, 500 * accepted, accepted, 0, 0),),
    )


def fitted(steps):
    """What is made of these reports."""
    fit = CostFit()
    for reports in steps:
        fit.observe(reports)
    fit.refit()
    return fit


def assert_harmless(fit):
    a, b, c = fit.step_cost
    assert all(map(math.isfinite, (*fit.step_cost, fit.r_squared)))
    assert a > 0
    assert b > 0
    request_ratio = b / a / (PRIOR.per_request_ms / PRIOR.per_token_ms)
    prefill_ratio = c / a / (PRIOR.per_prefill_token_ms / PRIOR.per_token_ms)
    assert 0.999 / MAX_REQUEST_RATIO <= request_ratio <= 1.001 * MAX_REQUEST_RATIO
    assert 0 <= prefill_ratio <= 1.001 * MAX_PREFILL_RATIO
    assert fit.is_fitted == (fit.r_squared >= LEAST_R_SQUARED)
    assert fit.is_fitted or fit.step_cost in (PRIOR, PRIOR._replace(per_prefill_token_ms=0.0))


def test_a_load_costs_its_tokens_its_requests_and_what_is_to_compute():
    """
    Milliseconds; what is held and what is in flight weigh alike.
    """
    load = GroupLoad(0, 1000, 200, 3, 1, uncached_tokens=300)

    assert StepCost(0.01, 1.0, 0.1).cost_ms(load) == pytest.approx(12 + 4 + 30)
    assert StepCost(0.01, 1.0, 0.1).steady_costs_ms([load]) == [pytest.approx(12 + 4)]


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_coefficients_are_found(wait, seed):
    """
    Whether groups wait for each other or not: within 2 times, and the ratio of b to a, too.
    """
    groups = Groups(TRUE, wait=wait, seed=seed)
    fit = fitted(groups.step() for _ in range(2400))

    assert fit.is_fitted
    assert_harmless(fit)
    for found, true in zip(fit.step_cost, TRUE, strict=True):
        assert 0.5 < found / true < 2
    assert 0.5 < fit.step_cost.per_request_ms / fit.step_cost.per_token_ms * 5e-5 / 0.06 < 2


def test_some_steps_that_were_held_up_change_little():
    """
    One in twenty takes fifty times as long.
    """
    groups, rng = Groups(TRUE, wait=False), random.Random(1)
    steps = [
        [r._replace(step_time_ns=r.step_time_ns * (50 if rng.random() < 0.05 else 1)) for r in step]
        for step in (groups.step() for _ in range(2400))
    ]
    fit = fitted(steps)

    assert fit.is_fitted
    for found, true in zip(fit.step_cost, TRUE, strict=True):
        assert 0.6 < found / true < 1.7


@pytest.mark.parametrize("figures", [{"kv_used_tokens": -1 << 40}, {"kv_used_tokens": 1 << 60}])
def test_steps_that_cannot_be_are_left_out(figures):
    """
    Every other one says that it held less than nothing, or more than any machine.
    """
    groups = Groups(TRUE, wait=False, num_groups=1)
    fit = fitted(
        [r._replace(**figures if number % 2 else {}) for r in groups.step()]
        for number in range(400)
    )

    assert fit.is_fitted
    assert fit.step_cost.per_request_ms == pytest.approx(TRUE.per_request_ms, rel=0.3)


@pytest.mark.parametrize("true", [(1e-3, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("wait", [True, False])
def test_ratios_stay_within_their_bounds_if_only_one_thing_costs(true, wait):
    """
    Or the prior counts, where the bounds leave too much unexplained.
    """
    groups = Groups(StepCost(*true), wait=wait, num_groups=2, prefill=0.3 * true[2])

    assert_harmless(fitted(groups.step() for _ in range(600)))


def test_until_there_are_samples_enough_the_prior_counts():
    """
    And nothing is said to be fitted.
    """
    groups = Groups(TRUE, wait=False)
    fit = fitted(groups.step() for _ in range(63))

    assert (fit.step_cost, fit.is_fitted, fit.r_squared) == (PRIOR, False, 0.0)


def test_a_bad_fit_falls_back_to_the_prior():
    """
    Times that have nothing to do with loads, after a good fit.
    """
    groups, rng = Groups(TRUE, wait=False), random.Random(2)
    fit = fitted(groups.step() for _ in range(300))
    assert fit.is_fitted

    for _ in range(300):
        fit.observe([r._replace(step_time_ns=rng.randint(10**6, 10**8)) for r in groups.step()])
    fit.refit()

    assert (fit.step_cost, fit.is_fitted) == (PRIOR, False)
    assert fit.r_squared < LEAST_R_SQUARED


def test_constant_load_changes_nothing():
    """
    Neither the prior nor what was found before.
    """
    still = [[said(0, 5000, 5, 1, 20.0, step)] for step in range(600)]
    assert fitted(still).step_cost == PRIOR

    groups = Groups(TRUE, wait=False)
    fit = fitted(groups.step() for _ in range(300))
    found = fit.step_cost
    for reports in still:
        fit.observe(reports)
    fit.refit()

    assert fit.step_cost == found


def test_tokens_and_requests_that_move_together_keep_the_ratio_of_the_prior():
    """
    Nothing tells their shares apart; the size is that of the steps.
    """
    steps = []
    for step in range(300):
        requests = 1 + step % 50
        steps.append([said(0, 2000 * requests, requests, 0, 20 + requests, step)])
    fit = fitted(steps)
    a, b, _ = fit.step_cost

    assert fit.is_fitted
    assert 2000 * a + b == pytest.approx(1.0, rel=0.05)
    assert b / a == pytest.approx(PRIOR.per_request_ms / PRIOR.per_token_ms, rel=0.3)


def test_groups_that_compute_no_prompts_charge_nothing_for_them():
    """
    After 8 requests a group; when they compute again, so does c count again.
    """
    fit = CostFit()

    for step in range(20):
        fit.observe([said(0, 50_000 + 1000 * step, 30, 0, 20 + step, step, accepted=step)])
    fit.refit()
    assert fit.step_cost == PRIOR._replace(per_prefill_token_ms=0.0)

    for step in range(20, 60):
        fit.observe([said(0, 50_000 + 1000 * step, 30, 500, 20 + step, step, accepted=step)])
    fit.refit()
    assert fit.step_cost.per_prefill_token_ms > 0


def test_if_nobody_refits_it_happens_all_the_same():
    """
    A simulator, a test: whoever has no quiet moments.
    """
    groups, fit = Groups(TRUE, wait=False), CostFit()
    for _ in range(1100):
        fit.observe(groups.step())

    assert fit.is_fitted


def test_a_batch_of_reports_is_looked_at_the_less_often_the_more_groups_there_are():
    """
    Two reports a batch, on average.
    """
    looked = []

    class Watched(list):
        def __iter__(self):
            looked.append(len(self))
            return super().__iter__()

    fit = CostFit()
    for _ in range(512):
        fit.observe(Watched([None] * 1024))

    assert looked == [1024]


def test_what_was_wrong_is_forgotten_with_the_window():
    """
    Lies first, then the truth.
    """
    fit = CostFit()
    for step in range(400):
        fit.observe([said(0, step, 1 + step % 7, 0, 1 + step % 97, step)])
    groups = Groups(TRUE, wait=False, num_groups=1)
    for step in range(2 * WINDOW):
        fit.observe([r._replace(num_steps=1000 + step) for r in groups.step()])
    fit.refit()

    assert fit.is_fitted
    assert fit.step_cost.per_request_ms == pytest.approx(TRUE.per_request_ms, rel=0.3)


ANYTHING = st.one_of(st.integers(0, 50), st.integers(-(2**63), 2**63 - 1), st.just(0))
FIGURES = ("kv_used_tokens", "running_requests", "step_prefill_tokens", "step_time_ns")


@given(st.lists(st.tuples(*[ANYTHING] * 4), min_size=2, max_size=12), st.integers(64, 300))
def test_whatever_is_reported_no_harm_is_done(figures, num_steps):
    """
    No NaN, no infinity, nothing below zero, ratios within their bounds.
    """
    fit = CostFit()
    for step in range(num_steps):
        one = dict(zip(FIGURES, figures[step % len(figures)], strict=True))
        fit.observe([report(0, num_steps=step, **one), None])
    fit.refit()

    assert_harmless(fit)


@given(
    st.tuples(*[st.floats(0, 1e3)] * 3), st.floats(0, 1e4), st.booleans(), st.integers(0, 1 << 30)
)
def test_whatever_the_truth_is_no_harm_is_done(true, noise, wait, seed):
    """
    Coefficients of any size, none, or far from the prior's ratios.
    """
    groups = Groups(StepCost(*true), wait=wait, num_groups=3, noise=min(noise, 0.5), seed=seed)

    assert_harmless(fitted(groups.step() for _ in range(100)))


def test_steps_that_are_alike_as_often_as_not_change_nothing_of_what_is_believed():
    """
    Two idle groups are alike by chance; samples would be thrown away at every change of mind.
    """

    def looks(times_ms, start):
        made = []
        for number in range(start, start + 100):
            pair = times_ms[number % len(times_ms)]
            made.append([said(rank, 10, 1, 0, pair[rank], number) for rank in (0, 1)])
        return made

    alike, unlike = (20.0, 20.0), (20.0, 40.0)
    fit = CostFit()
    believed = []
    for start, times_ms in (
        (1, [alike]),
        (101, [alike, unlike]),
        (201, [unlike]),
        (301, [unlike, alike]),
    ):
        for reports in looks(times_ms, start):
            fit.observe(reports)
            believed.append(fit.groups_wait)

    changes = sum(one is not other for one, other in pairwise(believed))
    assert changes == 2
    assert (believed[99], believed[199], believed[299], believed[399]) == (True, True, False, False)
