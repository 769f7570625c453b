"""Which live runs count, and when two methods are told apart."""

import json
from dataclasses import replace

import pytest

from benchmarks.balance_pair import Pair
from benchmarks.balance_table import agreement, make_rows, table
from benchmarks.bench_balance import tell

GOOD = Pair(
    trace="mix",
    dp_size=4,
    method="auto",
    seed=0,
    load=0.7,
    live_slowdown=1.02,
    sim_slowdown=1.02,
    live_kv=1.1,
    sim_kv=1.0,
    num_rounds=100,
    step_ms=100.0,
    late_share=0.05,
    late_ms=120.0,
    gap_share=0.25,
    sent_late_ms=25.0,
    failed=0,
)


def verdicts(*slowdowns):
    """Of methods with these slow-downs, live and simulated, one seed each."""
    pairs = [
        replace(GOOD, method=f"m{n}", live_slowdown=live, sim_slowdown=simulated)
        for n, (live, simulated) in enumerate(slowdowns)
    ]
    (told,) = agreement(make_rows(pairs))
    return told["same"], told["tied"], len(told["differs"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"failed": 1}, "1 requests failed"),
        ({"late_share": 0.051}, "began late"),
        ({"gap_share": 0.26}, "planning took 26% of a step"),
        ({"sent_late_ms": 25.1}, "clients sent 25 ms late"),
    ],
)
def test_a_run_with_which_the_machine_did_not_keep_up_is_not_valid(change, reason):
    """
    Each bound alone is enough, and a run that is at all of them is valid.
    """
    pair = replace(GOOD, **change)

    assert (GOOD.is_valid, pair.is_valid) == (True, False)
    assert [reason in fault for fault in pair.faults] == [True]


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        ((1.020, 1.020), (1.029, 1.029), (0, 1, 0)),
        ((1.020, 1.029), (1.029, 1.020), (0, 1, 0)),
        ((1.020, 1.020), (1.031, 1.021), (1, 0, 0)),
        ((1.020, 1.020), (1.031, 1.019), (0, 0, 1)),
        ((1.020, 1.020), (1.021, 1.009), (0, 0, 1)),
    ],
)
def test_methods_are_tied_that_hardly_differ_on_both_sides(one, two, verdict):
    """
    Also with one seed, and in whatever order the two sides put them.
    """
    assert verdicts(one, two) == verdict


def test_an_order_within_the_spread_of_the_seeds_is_a_tie():
    """
    Live the second is worse by 0.02, simulated better by 0.015; its seeds span 0.04.
    """
    pairs = [
        replace(GOOD, method="one"),
        replace(GOOD, method="two", seed=0, live_slowdown=1.02, sim_slowdown=1.005),
        replace(GOOD, method="two", seed=1, live_slowdown=1.06, sim_slowdown=1.005),
    ]

    (told,) = agreement(make_rows(pairs))

    assert (told["tied"], told["differs"]) == (1, [])


def test_the_table_says_of_how_many_runs_its_means_are():
    """
    Those that were left out are not among them.
    """
    rows = make_rows([GOOD, replace(GOOD, seed=1), replace(GOOD, method="other")])

    told = {line.split()[0]: line.split()[1] for line in table(rows).splitlines()[3:5]}

    assert told == {"auto": "2", "other": "1"}


@pytest.mark.parametrize("num_valid", [0, 2])
def test_a_run_that_is_not_valid_is_in_no_figure_and_is_named(num_valid, capsys):
    """
    The JSON has it among the runs, with the reason.
    """
    bad = replace(GOOD, method="other", failed=3)
    valid = [GOOD, replace(GOOD, seed=1)][:num_valid]

    tell([*valid, bad], 1.0)

    lines = capsys.readouterr().out.splitlines()
    told = json.loads(lines[-1])
    assert "NOT VALID, LEFT OUT: mix, 4 groups, other, seed 0: 3 requests failed" in lines
    assert [row["seeds"] for row in told["rows"]] == [2] * bool(num_valid)
    assert told["runs"][-1]["faults"] == ["3 requests failed"]
    assert not told["is_valid"]
