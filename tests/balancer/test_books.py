"""What stands in where a report is missing: the ledger's books, and whose report is the newest."""

import pytest

from balancer.departures import Departure
from balancer.in_flight import InFlight
from balancer.ledger import Book, Ledger
from shm.board import EMPTY_CELL, Cell
from shm.load import Accepted
from tests.balancer.loads import report

MINE, OTHER, DEAD = 0, 1, 2
GONE = Departure(dp_balance_id=10, ordinal=1, held_tokens=105)


@pytest.fixture(name="cells")
def _cells():
    """The own row as the board has it."""
    return {}


@pytest.fixture(name="ledger")
def _ledger(cells):
    ledger = Ledger(slot=MINE, epoch=500, num_front_doors=3, num_groups=1, note=cells.__setitem__)
    ledger.begin_group(0, 70)
    return ledger


def test_a_book_is_open_from_dispatch_to_end(ledger, cells):
    """
    Prompt and streamed tokens; the cumulative counters of the cell stay as they are.
    """
    ledger.dispatch(0, 100)
    ledger.dispatch(0, 11)
    ledger.stream(0, 70, 5)
    assert ledger.own_book(0) == Book(116, 2)

    ledger.end(0, 70, 105, GONE)

    assert ledger.own_book(0) == Book(11, 1)
    ledger.note_books()
    assert cells[0] == Cell(500, 70, 111, 2, 0, 0, 11, 1)


def test_an_end_is_noted_with_what_is_noted_next(ledger, cells):
    """
    It changes no counter, so it costs no write of its own: another dispatch to the group
    carries it, or the next note of the books.
    """
    ledger.dispatch(0, 100)
    noted = cells[0]
    ledger.end(0, 70, 100, GONE)
    assert (cells[0], ledger.book(0)) == (noted, Book(0, 0))

    ledger.dispatch(0, 11)
    assert cells[0] == Cell(500, 70, 111, 2, 0, 0, 11, 1)

    ledger.end(0, 70, 11, GONE)
    ledger.note_books()
    assert cells[0] == Cell(500, 70, 111, 2, 0, 0, 0, 0)


def test_the_end_of_a_request_without_tokens_is_noted_too(ledger, cells):
    """
    Its request is in the book, though no token is.
    """
    ledger.dispatch(0, 0)
    ledger.end(0, 70, 0, GONE)

    ledger.note_books()

    assert cells[0].book_requests == 0


def test_what_was_never_sent_leaves_the_book_too(ledger, cells):
    """
    With the note that takes the charge back.
    """
    ledger.dispatch(0, 100)

    ledger.take_back(0, 70, 100, 100)

    assert (ledger.own_book(0), cells[0].book_requests) == (Book(0, 0), 0)


def test_the_book_of_a_group_is_the_sum_over_front_doors(ledger):
    """
    The own as it is, the others' as they noted it, each for the group's present life.
    """
    ledger.dispatch(0, 100)
    ledger.stream(0, 70, 5)
    ledger.observe_cell(OTHER, 0, Cell(600, 70, 50, 2, 0, 0, 30, 1))
    ledger.observe_cell(DEAD, 0, Cell(700, 69, 50, 2, 0, 0, 9, 1))

    assert ledger.book(0) == Book(135, 2)


def test_a_dead_front_doors_book_counts_until_its_row_is_reclaimed(ledger):
    """
    The group may well hold its requests; from then on they are nobody's.
    """
    ledger.observe_cell(DEAD, 0, Cell(700, 70, 50, 2, 0, 0, 30, 1))
    assert (ledger.book(0), ledger.in_flight(0)) == (Book(30, 1), InFlight(50, 2))

    ledger.observe_cell(DEAD, 0, EMPTY_CELL._replace(front_door_epoch=700))

    assert (ledger.book(0), ledger.in_flight(0)) == (Book(0, 0), InFlight(0, 0))


def test_a_change_of_the_book_alone_is_no_change_of_what_is_in_flight(ledger):
    """
    So a group with a fresh report need not be weighed again.
    """
    cell = Cell(600, 70, 50, 2, 0, 0, 30, 1)

    assert ledger.observe_cell(OTHER, 0, cell)
    assert not ledger.observe_cell(OTHER, 0, cell._replace(book_tokens=31))
    assert ledger.observe_cell(OTHER, 0, cell._replace(dispatched_tokens=51))
    assert ledger.observe_cell(OTHER, 0, EMPTY_CELL)
    ledger.check_integrity()


def test_ends_of_the_groups_old_life_leave_the_new_ones_book_alone(ledger, cells):
    """
    They ended with their epoch: whatever is heard of them later is written nowhere.
    """
    ledger.dispatch(0, 100)
    ledger.begin_group(0, 71)
    ledger.dispatch(0, 11)
    noted = cells[0]

    ledger.stream(0, 70, 5)
    ledger.end(0, 70, 105, GONE)
    ledger.take_back(0, 70, 100, 105)
    ledger.note_books()

    assert (ledger.own_book(0), ledger.in_flight(0)) == (Book(11, 1), InFlight(11, 1))
    assert cells[0] is noted


def test_a_report_that_is_older_than_the_known_one_is_ignored(ledger):
    """
    Whoever publishes it: a new publisher may have been given a late one first.
    """
    ledger.dispatch(0, 100)
    taken = (Accepted(500, 100, 1, 0, 0),)
    newer = report(0, group_epoch=70, sampled_ns=9, holding_tokens=100, accepted=taken)
    older = report(0, group_epoch=70, sampled_ns=8, accepted=())
    ledger.observe_reports([newer])

    assert ledger.observe_reports([older]) == []
    assert (ledger.report(0), ledger.in_flight(0)) == (newer, InFlight(0, 0))


def test_a_new_life_may_report_with_an_earlier_time(ledger):
    """
    Only reports of one epoch are put in order.
    """
    ledger.observe_reports([report(0, group_epoch=70, sampled_ns=9)])
    ledger.begin_group(0, 71)

    assert ledger.observe_reports([report(0, group_epoch=71, sampled_ns=1)]) == [0]
