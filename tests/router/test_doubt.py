"""What makes a reading unbelievable, and what does not."""

import pytest

from balancer.ledger import Book
from router.backends.readings.doubt import Doubt
from router.backends.readings.reading import Condition, Reading

ZERO = Reading(0, 0, 0, 0, 4096)
BUSY = Reading(2, 0, 500, 500, 4096)
IDLE, OPEN = Book(0, 0), Book(300, 2)


def conditions(doubt, *seen):
    return [doubt.observe(*each) for each in seen]


def test_nothing_held_while_requests_of_ours_are_open_is_not_believed_for_long():
    """
    The tenth such reading in a row.
    """
    told = conditions(Doubt(), *[(ZERO, OPEN, OPEN)] * 11)

    assert told == [None] * 9 + [Condition.ALWAYS_ZERO] * 2


@pytest.mark.parametrize("books", [(IDLE, IDLE), (IDLE, OPEN), (OPEN, IDLE), (Book(0, 3), OPEN)])
def test_nothing_held_is_believed_where_nothing_of_ours_must_be(books):
    """
    Before or after it nothing was open, or nothing that holds tokens.
    """
    assert set(conditions(Doubt(), *[(ZERO, *books)] * 30)) == {None}


def test_an_idle_time_is_no_evidence_and_does_not_clear_what_was_found():
    """
    One other reading does.
    """
    doubt = Doubt()
    conditions(doubt, *[(ZERO, OPEN, OPEN)] * 10)

    told = conditions(doubt, *[(ZERO, IDLE, IDLE)] * 5, (BUSY, OPEN, OPEN))

    assert told == [Condition.ALWAYS_ZERO] * 5 + [None]


@pytest.mark.parametrize("books", [(Book(300, 2), Book(300, 4)), (Book(0, 1), Book(2049, 1))])
def test_the_same_figures_are_not_believed_while_books_move(books):
    """
    By two requests, or by more tokens than an engine's coarsest page has.
    """
    told = conditions(Doubt(), *[(BUSY, *books)] * 12)

    assert told == [None] * 10 + [Condition.FROZEN] * 2


@pytest.mark.parametrize("books", [(OPEN, OPEN), (Book(300, 2), Book(2300, 3))])
def test_the_same_figures_are_believed_while_books_hardly_move(books):
    """
    A slow request fills its page for a long time.
    """
    assert set(conditions(Doubt(), *[(BUSY, *books)] * 50)) == {None}


def test_the_same_figures_are_the_same_though_they_get_older():
    """
    An engine that tells their age tells another one every time.
    """
    aged = [(BUSY._replace(age_ns=number), IDLE, OPEN) for number in range(11)]

    assert conditions(Doubt(), *aged)[-1] is Condition.FROZEN


def test_what_moves_again_is_believed_again():
    """
    At once.
    """
    doubt = Doubt()
    conditions(doubt, *[(BUSY, OPEN, Book(9000, 9))] * 11)

    assert doubt.condition is Condition.FROZEN
    assert doubt.observe(BUSY._replace(held_tokens=501), OPEN, OPEN) is None


def test_what_stood_still_is_over_with_a_reading_of_nothing():
    """
    One of ours is open, or none is.
    """
    for book in (OPEN, IDLE):
        doubt = Doubt()
        conditions(doubt, *[(BUSY, OPEN, Book(9000, 9))] * 11)
        assert doubt.condition is Condition.FROZEN

        assert doubt.observe(ZERO, book, book) is None
