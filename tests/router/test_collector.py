"""Engines are read, and what they hold beyond the books is published."""

import pytest

from router.backends.backend import Kind
from router.backends.readings.reading import Condition
from tests.router.collecting import NOTHING, beyond, reading
from tests.router.watched_engine import EPOCH

pytestmark = pytest.mark.anyio


async def test_what_an_engine_holds_beyond_the_books_is_reported():
    """
    Of each rank, by one question; a report has accepted nothing.
    """
    async with reading(0, 1) as site:
        site.engine.holds(0, 500, running=3)
        site.engine.holds(1, 70)
        site.book(0, 200, 2)

        reports = await site.read()

        assert [reports[rank].holding_tokens for rank in range(2)] == [300, 70]
        assert reports[0].running_requests == 1
        assert reports[0].accepted == ((0, 0, 0, 0, 0),)
        assert site.engine.asked == ["/v1/loads"]


async def test_people_are_told_all_that_an_engine_holds():
    """
    And its load is the books and what is beyond them, each token once.
    """
    async with reading(0) as site:
        site.engine.holds(0, 500, running=3)
        site.book(0, 200, 2)
        await site.read()

        figures = site.figures()[0]

        assert (figures.report.holding_tokens, figures.report.running_requests) == (500, 3)
        assert figures.in_flight == (200, 2)
        assert figures.tokens == 500


async def test_what_is_dispatched_while_an_engine_answers_is_not_counted_twice():
    """
    Its reading may show it already.
    """
    async with reading(0) as site:
        site.engine.holds(0, 900)
        site.engine.at_question = lambda: site.book(0, 900)

        assert (await site.read())[0].holding_tokens == 0


async def test_a_book_of_another_epoch_counts_for_nothing():
    """
    It was a front door's of an earlier instance.
    """
    async with reading(0) as site:
        site.engine.holds(0, 500)
        site.book(0, 500, epoch=7)

        assert (await site.read())[0].holding_tokens == 500


async def test_an_engine_of_one_group_is_all_its_ranks():
    """
    Those that it was not asked to be told apart by.
    """
    async with reading(None) as site:
        site.engine.holds(0, 500)
        site.engine.holds(1, 70)

        assert (await site.read())[0].holding_tokens == 570


async def test_a_reading_that_is_not_given_is_named_and_the_books_stand_alone(caplog):
    """
    One line when it begins and one when it is over.
    """
    async with reading(0) as site:
        site.engine.holds(0, 500)
        site.engine.status = 404
        with caplog.at_level("INFO", "levelhead"):
            assert beyond(await site.read()) == {0: NOTHING}
            assert beyond(await site.read()) == {0: NOTHING}
            assert site.figures()[0].condition is Condition.MISSING
            assert site.figures()[0].report is None
            site.engine.status = 200
            assert (await site.read())[0].holding_tokens == 500

        assert site.figures()[0].condition is None
        assert [line.getMessage() for line in caplog.records] == [
            "DP group 0: its own figures are not used, books stand alone: missing (no /v1/loads)",
            "DP group 0: its own figures count again",
        ]


async def test_a_rank_that_an_engine_does_not_tell_of_is_missing_alone():
    """
    The other one's figures count.
    """
    async with reading(0, 1) as site:
        site.engine.holds(1, 70)

        assert beyond(await site.read()) == {0: NOTHING, 1: (70, 1)}
        assert site.collector.beyond[0].condition is Condition.MISSING


async def test_nothing_held_for_long_while_books_are_open_is_named():
    """
    A counter that stands at zero, whatever is sent.
    """
    async with reading(0) as site:
        site.engine.holds(0, 0, running=0)
        site.book(0, 200)
        for _ in range(9):
            await site.read()
            assert site.figures()[0].condition is None

        assert beyond(await site.read()) == {0: NOTHING}
        assert site.figures()[0].condition is Condition.ALWAYS_ZERO


async def test_an_engine_that_tells_nothing_is_not_asked_and_misses_nothing():
    """
    Its load is the books.
    """
    async with reading(None, kind=Kind.OPENAI) as site:
        await site.collector.keep_reading(EPOCH)
        site.book(0, 200)

        assert site.engine.asked == []
        assert (site.figures()[0].tokens, site.figures()[0].condition) == (200, None)
