"""What the barrier costs, summed over steps."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.lockstep.barrier_totals import QUANTITIES, BarrierTotals
from workers.lockstep.row import StepRow, Timing, Work

MS = 1_000_000


def row(tokens=0, step_ms=0, waited_ms=0, **work):
    timing = Timing(step_ms * MS, waited_ms * MS)
    return StepRow(Work(num_tokens=tokens, **work), timing, False, 0, None)


def noted(*rounds, num_groups=2, ranks_per_group=1):
    totals = BarrierTotals(num_groups, ranks_per_group)
    for rows in rounds:
        totals.note(rows)
    return totals.read()


def seconds(figures):
    return [(group.step_s, group.waited_s.total) for group in figures.groups]


def test_a_rank_waits_for_as_long_as_it_is_in_collectives_beyond_the_one_that_is_there_least():
    """
    The least is how long the data travel: nobody waits for that.
    """
    figures = noted([row(5), row(1)], [row(step_ms=41, waited_ms=4), row(step_ms=40, waited_ms=31)])

    assert seconds(figures) == [
        (pytest.approx(0.041), 0),
        (pytest.approx(0.04), pytest.approx(0.027)),
    ]


def test_a_steps_time_is_counted_once_however_long_nobody_computes_after_it():
    """
    Rows go on to tell it in rounds in which there is nothing to compute.
    """
    after = [row(step_ms=40, waited_ms=0), row(step_ms=40, waited_ms=10)]
    figures = noted([row(5), row(1)], after, after, after)

    assert figures.num_steps == 1
    assert seconds(figures) == [(pytest.approx(0.04), 0), (0.04, pytest.approx(0.01))]


def test_what_rows_say_of_a_step_before_the_first_is_not_counted():
    """
    Nobody has computed yet.
    """
    figures = noted([row(5, step_ms=9), row(1, step_ms=9)])

    assert (figures.num_steps, seconds(figures)) == (1, [(0, 0), (0, 0)])


def test_a_round_in_which_nobody_computes_is_no_step():
    """
    Nor is anybody idle in it.
    """
    figures = noted([row(), row()], [row(3), row()], [row(), row()])

    assert figures.num_steps == 1
    assert [group.num_idle_steps for group in figures.groups] == [0, 1]


def test_ratios_are_of_the_largest_over_the_mean_in_each_step():
    """
    3 and 1: 1.5.  One that has it all: 2.  Level: 1.
    """
    figures = noted([row(3), row(1)], [row(0), row(7)], [row(2), row(2)])

    tokens = figures.quantities["tokens"]
    assert (tokens.by_group, tokens.largest) == ((5, 10), 12)
    told = dict(zip(tokens.ratio.bounds, tokens.ratio.counts, strict=False))
    assert {bound for bound, count in told.items() if count} == {1.0, 1.5, 2.0}
    assert tokens.ratio.total == pytest.approx(4.5)


def test_every_quantity_is_compared_by_itself():
    """
    Where nobody has any of one, it has no ratio in that step.
    """
    one = row(2, num_requests=2, kv_tokens=90, attention_pairs=40)
    other = row(2, num_requests=1, kv_tokens=30, attention_pairs=40)
    figures = noted([one, other], [row(1), row(1)])

    told = {name: (each.by_group, each.largest) for name, each in figures.quantities.items()}
    assert told == {
        "tokens": ((3, 3), 3),
        "requests": ((2, 1), 2),
        "kv_tokens": ((90, 30), 90),
        "attention_pairs": ((40, 40), 40),
    }
    counted = {name: sum(each.ratio.counts) for name, each in figures.quantities.items()}
    assert counted == {"tokens": 2, "requests": 1, "kv_tokens": 1, "attention_pairs": 1}
    assert set(told) == set(QUANTITIES)


def test_ranks_of_a_group_wait_as_long_as_they_do_on_average():
    """
    What they compute is the leader's to tell.
    """
    rows = [row(4), row(9), row(2), row(9)]
    waits = [row(step_ms=10, waited_ms=ms) for ms in (1, 1, 3, 7)]
    figures = noted(rows, waits, ranks_per_group=2)

    assert figures.quantities["tokens"].by_group == (4, 2)
    assert seconds(figures) == [(0.01, 0), (0.01, pytest.approx(0.004))]


def test_ranks_that_tell_no_time_count_for_none():
    """
    Neither as one that waits for nobody, nor in the mean of their group.
    """
    rows = [row(4), row(), row(2), row()]
    times = [row(step_ms=10, waited_ms=3), row(), row(step_ms=10, waited_ms=7), row()]
    figures = noted(rows, times, ranks_per_group=2)

    assert seconds(figures) == [(0.01, 0), (0.01, pytest.approx(0.004))]


@given(
    st.lists(
        st.lists(
            st.tuples(*[st.integers(0, 9), *[st.integers(1, 1 << 40)] * 2]), min_size=3, max_size=3
        ),
        max_size=30,
    )
)
def test_sums_are_those_of_the_steps(steps):
    """
    Whoever adds them up himself has the same; a histogram has every step in it.
    """
    rounds = [
        [row(tokens)._replace(timing=Timing(step_ns, min(step_ns, waited_ns)))
         for tokens, step_ns, waited_ns in step]
        for step in steps
    ]  # fmt: skip
    figures = noted(*rounds, num_groups=3)

    is_step = [any(each.work.num_tokens for each in rows) for rows in rounds]
    assert figures.num_steps == sum(is_step)
    timed = [rows for rows, before in zip(rounds[1:], is_step, strict=False) if before]
    for rank, group in enumerate(figures.groups):
        waited = [rows[rank].timing.waited_ns - min(r.timing.waited_ns for r in rows)
                  for rows in timed]  # fmt: skip
        assert group.waited_s.total == pytest.approx(sum(waited) / 1e9)
        assert group.step_s == pytest.approx(sum(rows[rank].timing.step_ns for rows in timed) / 1e9)
        assert sum(group.waited_s.counts) == len(timed)
        assert group.waited_s.total <= group.step_s
    tokens = figures.quantities["tokens"]
    assert sum(tokens.ratio.counts) == figures.num_steps
    assert tokens.largest == sum(max(r.work.num_tokens for r in rows) for rows in rounds)


def test_figures_survive_json():
    """
    As another process gets them.
    """
    told = noted([row(5), row(1)], [row(step_ms=40), row(step_ms=40, waited_ms=30)]).as_dict()

    assert json.loads(json.dumps(told))["groups"][1]["waited_s"]["total"] == pytest.approx(0.03)
    assert json.loads(json.dumps(told))["quantities"]["tokens"]["ratio"]["total"] == 10 / 6


def test_whoever_reads_beside_the_step_loop_has_figures_of_one_step():
    """
    Read again and again while 5,000 steps are noted: each has as many ratios as steps.
    """
    totals = BarrierTotals(2)
    rows = [row(3, kv_tokens=3), row(1, kv_tokens=1)]

    def note():
        for _ in range(5_000):
            totals.note(rows)

    noting = threading.Thread(target=note)
    noting.start()
    while noting.is_alive():
        figures = totals.read()
        for name in ("tokens", "kv_tokens"):
            quantity = figures.quantities[name]
            assert sum(quantity.ratio.counts) == figures.num_steps
            assert quantity.by_group == (3 * figures.num_steps, figures.num_steps)
    noting.join()
    assert totals.read().num_steps == 5_000
