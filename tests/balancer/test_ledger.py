"""The law, sentence by sentence, as balancer.ledger states it.

Front door 0 is the one whose ledger is looked at.  The group's epoch is 70, then 71.
"""

from itertools import pairwise

import pytest

from balancer.errors import LedgerBroken
from balancer.in_flight import InFlight
from balancer.ledger import Ledger
from shm.board import EMPTY_CELL, Cell
from shm.load import Accepted
from tests.balancer.loads import report

MINE, OTHER = 0, 1
NOTHING = InFlight(0, 0)


@pytest.fixture(name="notes")
def _notes():
    """Cells of the own row as the board was given them, in order."""
    return []


@pytest.fixture(name="ledger")
def _ledger(notes):
    ledger = Ledger(
        slot=MINE,
        epoch=500,
        num_front_doors=2,
        num_groups=2,
        note=lambda dp_rank, cell: notes.append((dp_rank, cell)),
    )
    ledger.begin_group(0, 70)
    notes.clear()
    return ledger


def accepted(mine=(500, 0, 0), other=(500, 0, 0)):
    return (Accepted(*mine, 0, 0), Accepted(*other, 0, 0))


def foreign(epoch, group_epoch, dispatched, returned=(0, 0), book=(0, 0)):
    return Cell(epoch, group_epoch, *dispatched, *returned, *book)


def test_a_ledger_begins_by_noting_that_it_has_sent_nothing():
    """
    Its row may hold what an earlier life of the front door sent: that ends here.
    """
    notes = {}
    Ledger(slot=0, epoch=501, num_front_doors=1, num_groups=2, note=notes.__setitem__)

    assert notes == {0: Cell(501, 0, 0, 0, 0, 0, 0, 0), 1: Cell(501, 0, 0, 0, 0, 0, 0, 0)}


def test_a_dispatched_token_is_in_flight_at_once(ledger):
    """
    Before any report shows it, and on the group that it went to.
    """
    ledger.dispatch(0, 100)

    assert ledger.in_flight(0) == InFlight(100, 1)
    assert ledger.in_flight(1) == NOTHING


def test_a_charge_is_noted_before_a_dispatch_returns(ledger, notes):
    """
    The caller sends after it; whoever reads the board then finds the charge.
    """
    assert ledger.dispatch(0, 100) == 70

    assert notes == [(0, Cell(500, 70, 100, 1, 0, 0, 100, 1))]


def test_counters_only_grow(ledger, notes):
    """
    Neither acceptance nor return makes dispatched smaller; the book is another matter.
    """
    ledger.dispatch(0, 100)
    ledger.take_back(0, 70, 100, 100)
    ledger.dispatch(0, 11)
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted((500, 11, 1)))])

    assert notes[-1] == (0, Cell(500, 70, 111, 2, 100, 1, 11, 1))
    assert all(min(map(int.__sub__, b[:6], a[:6])) >= 0 for (_, a), (_, b) in pairwise(notes))


def test_an_accepted_charge_leaves_flight_with_the_report_that_shows_it(ledger):
    """
    In flight until then, in holding from that same report on.
    """
    ledger.dispatch(0, 100)
    ledger.dispatch(0, 11)

    taken = report(0, group_epoch=70, holding_tokens=100, accepted=accepted((500, 100, 1)))
    assert ledger.observe_reports([taken])

    assert ledger.in_flight(0) == InFlight(11, 1)
    assert ledger.report(0).holding_tokens == 100


def test_a_refused_charge_leaves_flight_with_nothing_held(ledger):
    """
    Settled is accepted without holding: the charge is over.
    """
    ledger.dispatch(0, 100)

    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted((500, 100, 1)))])

    assert ledger.in_flight(0) == NOTHING


def test_a_charge_that_never_reached_the_group_is_taken_back(ledger):
    """
    It leaves flight here, because nobody else will ever count it.
    """
    ledger.dispatch(0, 100)
    ledger.dispatch(0, 11)

    ledger.take_back(0, 70, 100, 100)

    assert ledger.in_flight(0) == InFlight(11, 1)


def test_what_other_front_doors_have_sent_is_in_flight_too(ledger):
    """
    Sum over front doors of dispatched - returned - accepted.
    """
    ledger.dispatch(0, 100)
    ledger.observe_reports(
        [report(0, group_epoch=70, accepted=accepted((500, 60, 1), (600, 1_000, 2)))]
    )
    ledger.observe_cell(OTHER, 0, foreign(600, 70, (3_000, 9), (500, 3)))

    assert ledger.in_flight(0) == InFlight(40 + 1_500, 0 + 4)


def test_a_foreign_row_does_not_replace_the_own(ledger):
    """
    The own row as this process wrote it is the newest there is.
    """
    ledger.dispatch(0, 100)

    ledger.observe_cell(MINE, 0, EMPTY_CELL)

    assert ledger.in_flight(0) == InFlight(100, 1)


def test_a_front_door_that_has_written_nothing_counts_for_nothing(ledger):
    """
    An empty cell is of epoch 0, which no group is in.
    """
    ledger.observe_cell(OTHER, 0, EMPTY_CELL)

    assert ledger.in_flight(0) == NOTHING


def test_read_in_order_nothing_is_missed_and_nothing_is_short(ledger):
    """
    Segment first, then board.  A charge that was dispatched and accepted
    between the two reads is in flight: the report did not show it.
    """
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted())])
    ledger.observe_cell(OTHER, 0, foreign(500, 70, (100, 1)))  # accepted by now, not by then

    assert ledger.in_flight(0) == InFlight(100, 1)
    ledger.check_integrity()


def test_read_the_other_way_round_a_charge_would_be_counted_zero_times(ledger):
    """
    What the order is for: board first, and the report shows a charge that was never added.
    """
    ledger.observe_cell(OTHER, 0, foreign(500, 70, (0, 0)))
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted(other=(500, 100, 1)))])

    assert ledger.in_flight(0) == InFlight(-100, -1)
    with pytest.raises(LedgerBroken, match="group 0 has InFlight"):
        ledger.check_integrity()


def test_a_new_life_of_the_group_forgets_what_was_sent_to_the_old(ledger, notes):
    """
    The charges died with it, and the board says so.
    """
    ledger.dispatch(0, 100)
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted())])

    ledger.begin_group(0, 71)

    assert (ledger.epoch(0), ledger.report(0), ledger.in_flight(0)) == (71, None, NOTHING)
    assert notes[-1] == (0, Cell(500, 71, 0, 0, 0, 0, 0, 0))


def test_a_report_of_another_life_of_the_group_is_not_taken_over(ledger):
    """
    Neither of the one that ended nor of one that the table does not know yet.
    """
    ledger.dispatch(0, 100)

    for epoch in (69, 71):
        assert not ledger.observe_reports(
            [report(0, group_epoch=epoch, holding_tokens=9, accepted=accepted((500, 100, 1)))]
        )

    assert (ledger.report(0), ledger.in_flight(0)) == (None, InFlight(100, 1))


def test_a_charge_of_the_groups_old_life_is_not_taken_back_from_the_new(ledger):
    """
    It ended with its epoch already; ended twice it would make the sum short.
    """
    ledger.dispatch(0, 100)
    ledger.begin_group(0, 71)
    ledger.dispatch(0, 11)

    ledger.take_back(0, 70, 100, 100)

    assert ledger.in_flight(0) == InFlight(11, 1)


def test_a_foreign_cell_of_the_groups_old_life_counts_for_nothing(ledger):
    """
    The other front door has not seen the new life yet.
    """
    ledger.begin_group(0, 71)

    ledger.observe_cell(OTHER, 0, foreign(500, 70, (100, 1)))

    assert ledger.in_flight(0) == NOTHING


def test_a_foreign_cell_of_the_groups_next_life_waits_for_it(ledger):
    """
    The other front door has seen it first: what it sent there counts as soon as we do.
    """
    ledger.observe_cell(OTHER, 0, foreign(500, 71, (100, 1)))
    assert ledger.in_flight(0) == NOTHING

    ledger.begin_group(0, 71)

    assert ledger.in_flight(0) == InFlight(100, 1)


def test_what_an_earlier_life_of_a_front_door_got_accepted_is_not_subtracted(ledger):
    """
    The group has not heard from the new life: its counters are still the old one's.
    """
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted(other=(600, 1_000, 9)))])

    ledger.observe_cell(OTHER, 0, foreign(601, 70, (30, 1)))

    assert ledger.in_flight(0) == InFlight(30, 1)


def test_what_an_earlier_life_of_this_front_door_got_accepted_is_not_subtracted(ledger):
    """
    The same for the own row, after a restart.
    """
    ledger.dispatch(0, 30)

    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted(mine=(499, 1_000, 9)))])

    assert ledger.in_flight(0) == InFlight(30, 1)


def test_a_report_with_fewer_front_doors_leaves_the_rest_in_flight(ledger):
    """
    A group that knows nothing of a slot has accepted nothing from it.
    """
    ledger.observe_cell(OTHER, 0, foreign(500, 70, (30, 1)))

    ledger.observe_reports([report(0, group_epoch=70, accepted=(Accepted(500, 0, 0, 0, 0),))])

    assert ledger.in_flight(0) == InFlight(30, 1)


def test_integrity_holds_through_a_charges_life(ledger):
    """
    Sent, reported, accepted: never negative.
    """
    ledger.check_integrity()
    ledger.dispatch(0, 100)
    ledger.check_integrity()
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted((500, 100, 1)))])
    ledger.check_integrity()


@pytest.mark.parametrize("planted", [(101, 1), (100, 2)], ids=["tokens", "requests"])
def test_integrity_notices_more_accepted_than_sent(ledger, planted):
    """
    In tokens or in requests.
    """
    ledger.dispatch(0, 100)
    ledger.observe_reports([report(0, group_epoch=70, accepted=accepted((500, *planted)))])

    with pytest.raises(LedgerBroken, match="group 0 has InFlight"):
        ledger.check_integrity()
