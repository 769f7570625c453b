"""What a reading adds to the books: never what they have, nor what came after it."""

from hypothesis import given
from hypothesis import strategies as st

from balancer.ledger import Book
from router.backends.readings.beyond import Beyond
from router.backends.readings.reading import Condition, Reading, missing

S = 1_000_000_000


def reading(held, requests=1):
    return Reading(requests, 0, held, held, 1 << 30)


def test_what_others_have_sent_is_beyond_the_books():
    """
    Tokens and requests.
    """
    told = Beyond().observe(reading(1000, 7), Book(300, 2), Book(300, 2), 0)

    assert told == Book(700, 5)


def test_what_ended_while_it_was_read_is_not_added():
    """
    The reading may show it, or not: the larger book counts.
    """
    assert Beyond().observe(reading(900), Book(900, 1), Book(0, 0), 0) == Book(0, 0)


def test_what_was_dispatched_while_it_was_read_is_not_added():
    """
    The reading may show that, too.
    """
    assert Beyond().observe(reading(900), Book(0, 0), Book(900, 1), 0) == Book(0, 0)


def test_what_ended_shortly_before_it_was_read_is_not_added():
    """
    Engines publish what was so a moment ago.
    """
    beyond = Beyond()
    beyond.observe(reading(900), Book(900, 1), Book(900, 1), 0)

    assert beyond.observe(reading(900), Book(0, 0), Book(0, 0), S // 2) == Book(0, 0)
    assert beyond.observe(reading(900), Book(0, 0), Book(0, 0), 2 * S) == Book(900, 1)


def test_books_that_know_more_than_the_engine_keep_what_they_know():
    """
    Waiting prompts that it does not tell, prefixes that its requests share.
    """
    assert Beyond().observe(reading(10), Book(900, 3), Book(900, 3), 0) == Book(0, 0)


def test_without_a_reading_nothing_is_told_and_the_reason_is_known():
    """
    Until there is one again.
    """
    beyond = Beyond()

    assert beyond.observe(missing("gone"), Book(0, 0), Book(0, 0), 0) is None
    assert beyond.condition is Condition.MISSING
    assert beyond.observe(reading(5), Book(0, 0), Book(0, 0), 0) == Book(5, 1)
    assert beyond.condition is None


@given(st.data())
def test_no_dispatch_of_ours_counts_twice_whatever_instant_a_reading_shows(data):
    """
    An engine that holds others' tokens and ours, read at any instant of the second before.
    """
    others = data.draw(st.integers(0, 1000))
    changes = data.draw(st.lists(st.integers(-300, 300), min_size=1, max_size=20))
    ours, books = 0, []
    for change in changes:
        ours = max(0, ours + change)
        books.append(Book(ours, int(ours > 0)))
    shown = data.draw(st.sampled_from(books))
    beyond = Beyond()
    for number, book in enumerate(books[:-1]):
        beyond.observe(missing("not yet"), book, book, number)

    told = beyond.observe(reading(others + shown.tokens, 1), books[-1], books[-1], len(books))

    assert told.tokens <= others
