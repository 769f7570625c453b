import orjson
import pytest

from balancer.cost_model import CostFit, StepCost
from router.front_door.meters import (
    AGE_BOUNDS_S,
    DECISION_BOUNDS_S,
    LATENCY_BOUNDS_S,
    Histogram,
    Meters,
)


def test_a_value_is_counted_under_the_smallest_bound_that_is_not_below_it():
    """
    Bounds are inclusive, as Prometheus has them; the last bucket has none.
    """
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5, 99.0):
        histogram.observe(value)

    assert histogram.counts == [2, 2, 2]
    assert histogram.total == pytest.approx(106.5)


@pytest.mark.parametrize("bounds", [LATENCY_BOUNDS_S, DECISION_BOUNDS_S, AGE_BOUNDS_S])
def test_bounds_grow(bounds):
    """
    A bound out of order would never count.
    """
    assert list(bounds) == sorted(set(bounds))


def test_all_meters_travel_as_json():
    """
    What the control plane reads is what was counted.
    """
    meters = Meters(2)
    meters.dispatches[1] += 3
    meters.responses[200] += 1
    meters.retries["lost"] += 2
    meters.settlements["unseen"] += 1
    meters.stale_groups[0] = 1
    meters.ttft_s.observe(0.5)

    told = orjson.loads(orjson.dumps(meters.as_dict(), option=orjson.OPT_NON_STR_KEYS))

    assert told["dispatches"] == [0, 3]
    assert told["responses"] == {"200": 1}
    assert (told["retries"], told["settlements"]) == ({"lost": 2}, {"unseen": 1})
    assert (told["stale_groups"], told["stale_transitions"]) == ([1, 0], [0, 0])
    assert sum(told["ttft_s"]["counts"]) == 1
    assert len(told["ttft_s"]["counts"]) == len(told["ttft_s"]["bounds"]) + 1


def test_costs_are_told_in_seconds_with_how_well_they_fit():
    """
    Of the prior at first, and then that says so.
    """
    meters, costs = Meters(1), CostFit(StepCost(0.001, 2.0, 0.5))
    meters.note_costs(costs)

    told = meters.as_dict()
    assert told["cost_per_token_s"] == pytest.approx(1e-6)
    assert told["cost_per_request_s"] == pytest.approx(2e-3)
    assert told["cost_per_prefill_token_s"] == pytest.approx(5e-4)
    assert (told["cost_is_fitted"], told["cost_fit_r_squared"]) == (0, 0.0)
