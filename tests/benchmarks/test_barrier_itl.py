"""The pure parts of the benchmark of decoding streams beside long prompts."""

import pytest

from benchmarks.barrier_rows import Run, make_row, table
from benchmarks.barrier_share import Share
from benchmarks.bench_barrier_itl import APART, Traffic, flags_of
from router.flags import serve_parser

TRAFFIC = Traffic(8, 16, 256, 1024, 4, rate=0.5, seconds=100.0)


def share(first, second):
    return Share({"0": first, "1": second}, token_ratio=1.5, num_steps=10, mean_step_ms=40.0)


def test_prompts_come_at_the_same_times_in_every_run_of_a_seed():
    """
    Within the window, about as many as the rate says.
    """
    arrivals_s = TRAFFIC.arrivals_s(3)

    assert arrivals_s == TRAFFIC.arrivals_s(3) != TRAFFIC.arrivals_s(4)
    assert 0 < min(arrivals_s) <= max(arrivals_s) < 100
    assert 30 < len(arrivals_s) < 75


@pytest.mark.parametrize(
    ("way", "method", "align"),
    [
        (APART, "round_robin", "off"),
        ("minimum_tokens", "minimum_tokens", "off"),
        ("auto+hold", "auto", "hold"),
    ],
)
def test_a_way_is_flags_that_levelhead_has(way, method, align):
    """
    As many ranks as groups.
    """
    told = serve_parser({}).parse_args(flags_of(way, 64, 2, []))

    assert (told.load_balance_method, told.prefill_align) == (method, align)
    assert (told.enable_dp_attention, told.tp_size, told.dp_size) == (True, 2, 2)
    assert told.chunked_prefill_size == 64


def test_a_row_is_of_all_repeats():
    """
    Gaps and first tokens together; of idle shares the mean of each repeat's most, and of all.
    """
    runs = [
        Run([0.04] * 98 + [0.5], [1.0], 0, 10.0, [share(0.1, 0.3)]),
        Run([0.9], [3.0, 2.0], 1, 10.0, [share(0.5, 0.1)]),
    ]
    row = make_row("auto", 64, runs)

    assert row[:5] == ("auto", 64, *map(pytest.approx, (40, 500, 900)))
    assert (row.ttft_p50_ms, row.ttft_p99_ms) == (2000, 3000)
    assert (row.decoded_per_s, row.prompts, row.failed) == (5, 3, 1)
    assert (row.idle_most, row.idle_mean) == (pytest.approx(0.4), pytest.approx(0.25))
    assert "| `auto` | 64 | 40, 500, 900 | 2000, 3000 | 5.0 | 40 %, 25 % | 1.50 | 40 |" in table(
        [row]
    )
