"""What a window of an instance's metrics says of its barrier."""

import pytest

from benchmarks.barrier_share import Scrape, Share
from router.control_plane.barrier_figures import BarrierFigures
from router.control_plane.metrics import exposition
from router.control_plane.totals import Totals
from workers.lockstep.barrier_totals import BarrierTotals
from workers.lockstep.row import StepRow, Timing, Work

MS = 1_000_000


def row(tokens, step_ms=0, waited_ms=0):
    return StepRow(Work(tokens), Timing(step_ms * MS, waited_ms * MS), False, 0, None)


def scrape(barrier):
    figures = BarrierFigures.from_json(barrier.read().as_dict())
    return Scrape.of(exposition([], [], {0: Totals(0, 0, 0, 0, 0, 0, figures)}).decode())


def test_a_window_is_of_its_own_steps_alone():
    """
    40 ms of which the second group waited 30; what was before it does not count.
    """
    barrier = BarrierTotals(2)
    barrier.note([row(1), row(1)])
    barrier.note([row(9, 50, 0), row(1, 50, 40)])
    before = scrape(barrier)
    barrier.note([row(0, 40, 2), row(0, 40, 32)])
    barrier.note([row(6), row(2)])

    share = Share.between(before, scrape(barrier))

    assert share.idle == {"0": 0, "1": pytest.approx(0.75)}
    assert share.token_ratio == pytest.approx(1.5)
    assert (share.num_steps, share.mean_step_ms) == (1, pytest.approx(40))


def test_without_a_step_there_is_no_share():
    """
    Nor where ranks do not step together.
    """
    there = scrape(BarrierTotals(2))

    with pytest.raises(ValueError, match="no step between"):
        Share.between(there, there)
    with pytest.raises(ValueError, match="no metric levelhead_dp_attention_"):
        Scrape.of(exposition([], [], {}).decode())
