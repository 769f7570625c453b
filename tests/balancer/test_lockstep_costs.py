"""The cost model on reports of groups that really wait for each other, some of them idle."""

import random

import pytest

from balancer.cost_model import CostFit, StepCost
from tests.balancer.loads import report
from workers.lockstep.common_step import CommonStep
from workers.lockstep.row import StepRow, Timing, Work

TRUE = StepCost(5e-5, 0.06, 0.2)
BASE_MS = 20.0


class LockStep:
    """Rows of groups in lock step; each is idle for some time, and then loaded for some."""

    def __init__(self, num_groups, seed):
        self._rng, self._number = random.Random(seed), 0
        self._groups = [{"kv": 0, "requests": 0, "left": 0} for _ in range(num_groups)]
        self._own = [(0, 0, 0)] * num_groups
        self._last = [(0, 0)] * num_groups

    def rows(self):
        rng, self._number = self._rng, self._number + 1
        loads = [self._load(group) for group in self._groups]
        times = [sum(map(float.__mul__, TRUE, map(float, load))) for load in loads]
        step_ns = round(1e6 * (BASE_MS + max(times)) * (1 + rng.gauss(0, 0.02)))
        rows = []
        for rank, load in enumerate(loads):
            rows.append(self._row(rank, load))
            num_steps = self._own[rank][0]
            own_ns = round(step_ns * (1 - 0.15 * rng.random()))
            self._last[rank] = (own_ns, load[2])
            if load[1]:
                self._own[rank] = (num_steps + 1, own_ns, load[2])
        return rows

    def _load(self, group):
        rng = self._rng
        if not group["left"]:
            is_busy = not group["requests"]
            group |= {"left": rng.randint(1, 80), "kv": 50_000 * is_busy, "requests": 30 * is_busy}
        group["left"] -= 1
        if not group["requests"]:
            return 0, 0, 0
        group["kv"] = max(9_000, group["kv"] + rng.randint(-6000, 6000))
        group["requests"] = max(1, group["requests"] + rng.randint(-3, 3))
        prefill = rng.randint(100, 2000) if rng.random() < 0.05 else 0
        return group["kv"], group["requests"], prefill

    def _row(self, rank, load):
        """The step's work and what is held; of the step before, its time."""
        kv, requests, prefill = load
        num_steps, own_ns, own_prefill = self._own[rank]
        own = report(
            rank,
            sampled_ns=self._number * 10_000_000,
            kv_used_tokens=kv,
            running_requests=requests,
            num_steps=num_steps,
            step_time_ns=own_ns,
            step_prefill_tokens=own_prefill,
        )
        work = Work(num_tokens=requests + prefill, prefill_tokens=prefill)
        return StepRow(work, Timing(self._last[rank][0], 0), False, 0, own)


def fit_of(reports):
    fit = CostFit()
    for each in reports:
        fit.observe(each)
    fit.refit()
    return fit


@pytest.mark.parametrize("num_groups", [2, 8])
@pytest.mark.parametrize("seed", range(2))
def test_coefficients_of_groups_in_lock_step_are_found_though_some_are_idle(num_groups, seed):
    """
    Reports tell the common step: groups are seen to wait, and the heaviest explains the time.
    """
    groups, step = LockStep(num_groups, seed), CommonStep()
    fit = fit_of(step.reports(groups.rows()) for _ in range(3000))

    assert fit.groups_wait
    assert fit.is_fitted
    for found, true in zip(fit.step_cost, TRUE, strict=True):
        assert 0.5 < found / true < 2


def test_each_groups_own_last_step_would_not_do():
    """
    As every rank measures it, and an idle one goes on to tell: nobody seems to wait.
    """
    groups = LockStep(8, seed=0)
    fit = fit_of([row.report for row in groups.rows()] for _ in range(3000))

    assert not fit.groups_wait
