"""What a reading adds to the books: never what they have, nor what came after it."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from balancer.ledger import Book
from router.backends.readings.beyond import Beyond
from router.backends.readings.reading import Condition, Reading, missing

S = 1_000_000_000


def reading(held, requests=1, age_ns=0):
    return Reading(requests, 0, held, held, 1 << 30, age_ns)


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


def test_figures_that_are_old_are_compared_with_the_books_of_then():
    """
    As far back as their age, and a second; what nobody can compare any more is not used.
    """
    beyond = Beyond()
    beyond.observe(reading(900), Book(900, 1), Book(900, 1), 0)

    assert beyond.observe(reading(900, age_ns=4 * S), Book(0, 0), Book(0, 0), 5 * S) == Book(0, 0)
    assert beyond.observe(reading(900, age_ns=3 * S), Book(0, 0), Book(0, 0), 5 * S) == Book(900, 1)
    assert beyond.observe(reading(900, age_ns=40 * S), Book(0, 0), Book(0, 0), 45 * S) is None
    assert beyond.condition is Condition.FROZEN
    idle = reading(0, requests=0, age_ns=600 * S)
    assert beyond.observe(idle, Book(0, 0), Book(0, 0), 46 * S) == Book(0, 0)
    assert beyond.condition is None


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


class Ours(NamedTuple):
    """One request of ours; in fiftieths of a second."""

    begins: int
    ends: int
    tokens: int


FIFTIETH_NS = S // 50
NOTED_EACH = 10  # as the collector does: every fifth of a second
OURS = st.builds(
    lambda begins, lasts, tokens: Ours(begins, begins + lasts, tokens),
    st.integers(-30, 50), st.integers(1, 60), st.integers(1, 1000),
)  # fmt: skip


def book_at(ours, instant):
    open_then = [each for each in ours if each.begins <= instant < each.ends]
    return Book(sum(each.tokens for each in open_then), len(open_then))


@given(st.lists(OURS, max_size=12), st.integers(0, 50), st.integers(0, 1000), st.integers(0, 9))
def test_no_token_of_ours_counts_twice_whatever_instant_a_reading_shows(
    ours, shown_at, others, first
):
    """
    An engine that holds others' tokens and ours, read at any instant of the second before.

    Between two notes the books may have been larger than at both: by what began there, and by
    what ended there, and so by no more than the lesser of these.
    """
    noted = [*range(first, 50, NOTED_EACH), 50]
    beyond = Beyond()
    beyond.note(book_at(ours, 0), 0)
    for instant in noted[:-1]:
        beyond.note(book_at(ours, instant), instant * FIFTIETH_NS)
    arrived = book_at(ours, 50)
    held = others + book_at(ours, shown_at).tokens

    told = beyond.observe(reading(held), arrived, arrived, S)

    since = max(each for each in (0, *noted) if each <= shown_at)
    until = min(each for each in noted if each >= shown_at)
    began = sum(each.tokens for each in ours if since < each.begins <= shown_at < each.ends)
    ended = sum(each.tokens for each in ours if each.begins <= shown_at < each.ends <= until)
    assert told.tokens <= others + min(began, ended)
