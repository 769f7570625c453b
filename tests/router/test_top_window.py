"""Rates and latencies out of what front doors counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.top.quantiles import quantile
from router.top.window import Window
from tests.router.pictures import front_doors, meters


def window(*looks):
    made = Window()
    for at_s, *doors in looks:
        made.add(at_s, front_doors(*doors))
    return made


def test_one_look_gives_no_rate():
    """
    Rather than one since the start of the instance.
    """
    made = window((0.0, meters(requests=1000)))

    assert made.rates() is None
    assert made.latencies() == {}


def test_rates_are_growth_over_the_last_seconds_of_all_front_doors():
    """
    5 s back, not to the first look; failures are among the requests.
    """
    made = window(
        (0.0, meters(0, requests=0), meters(1, requests=50)),
        (1.0, meters(0, requests=100), meters(1, requests=50, to=(1, 0))),
        (6.0, meters(0, requests=110, failed=5, prompt=400), meters(1, requests=60, to=(1, 30))),
    )

    rates = made.rates()

    assert (rates.requests, rates.errors, rates.prompt_tokens) == (4.0, 1.0, 80.0)
    assert rates.dispatches == {0: 0.0, 1: 6.0}


def test_a_piece_of_a_stream_counts_once_whether_first_or_not():
    """
    The first is in the one histogram, the others in the other.
    """
    made = window((0.0, meters()), (2.0, meters(ttfts=(0.05, 0.05), pieces=18)))

    assert made.rates().streamed_tokens == 10.0


def test_a_front_door_that_is_started_anew_is_no_burst_and_no_negative_rate():
    """
    Its counts begin at nothing; so they are compared with none of its former life.
    """
    made = window(
        (0.0, meters(0, epoch=1, requests=900), meters(1, requests=10)),
        (1.0, meters(0, epoch=2, requests=3), meters(1, requests=12)),
    )

    assert made.rates().requests == 2.0


def test_a_front_door_that_did_not_answer_once_is_no_burst():
    """
    Missing at the older end, it adds nothing; missing at the newer, neither.
    """
    assert window((0.0, None), (1.0, meters(requests=5))).rates().requests == 0.0
    assert window((0.0, meters(requests=5)), (1.0, None)).rates().requests == 0.0


def test_another_life_of_the_instance_begins_anew():
    """
    No rate spans it.
    """
    made = window((0.0, meters(requests=5)))
    made.add(1.0, front_doors(meters(requests=7), epoch=8))

    assert made.rates() is None


def test_latencies_are_of_the_last_minute():
    """
    What was slow before is over.
    """
    slow, fast = (20.0,) * 10, (0.05,) * 10
    made = window((0.0, meters()), (1.0, meters(ttfts=slow)), (61.0, meters(ttfts=slow + fast)))

    found = made.latencies()["ttft_s"]

    assert 0.04 < found.p50 < found.p99 <= 0.06
    assert made.latencies()["end_to_end_s"] == (None, None, None)


def test_a_quantile_lies_within_its_bucket_as_prometheus_has_it():
    """
    Evenly within a bucket; beyond the last bound it is that bound.
    """
    assert quantile((1.0, 2.0), (0, 4, 0), 0.5) == 1.5
    assert quantile((1.0, 2.0), (1, 1, 2), 0.99) == 2.0
    assert quantile((1.0, 2.0), (0, 0, 0), 0.5) is None


@given(
    counts=st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_quantiles_rise_with_their_share_and_stay_within_the_bounds(counts, shares):
    """
    Whatever was observed.
    """
    low, high = (quantile((1.0, 2.0, 4.0), counts, share) for share in sorted(shares))

    assert 0 <= low <= high <= 4.0


def test_a_window_keeps_a_minute_and_not_the_day():
    """
    At any pace of looking.
    """
    made = window(*((float(second), meters(requests=second)) for second in range(300)))

    assert len(made._looks) <= 62
    assert made.rates().requests == pytest.approx(1.0)
