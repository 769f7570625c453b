"""Engines are read, and what they hold beyond the books is published."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import orjson
import pytest

from router.backends.backend import BackendGroup, Kind
from router.backends.readings.reading import Condition
from router.control_plane.collector import Collector
from router.control_plane.figures import Figures
from shm.board import EMPTY_CELL, Board
from shm.load import LoadReader
from tests.router.backends import entries
from tests.router.house import House

pytestmark = pytest.mark.anyio
URL = "http://a:1"
SECOND_NS = 1_000_000_000
NOTHING = (0, 0)


class EndOfTest(Exception):
    """The loop is left."""


class Engine:
    """A SGLang server's `/v1/loads`."""

    def __init__(self):
        self.loads = {}
        self.status = 200
        self.asked = []
        self.limits = []
        self.at_question = lambda: None

    def holds(self, rank, tokens, running=1):
        self.loads[rank] = {
            "dp_rank": rank, "num_running_reqs": running, "num_waiting_reqs": 0,
            "num_used_tokens": tokens, "num_total_tokens": tokens, "max_total_num_tokens": 9999,
        }  # fmt: skip

    async def __call__(self, request):
        self.asked.append(request.url.path)
        self.limits.append(request.extensions["timeout"]["read"])
        self.at_question()
        return httpx.Response(self.status, content=orjson.dumps({"loads": [*self.loads.values()]}))


class Reading:
    """A collector over two ranks of an engine, and what it publishes."""

    def __init__(self, house, engine, collector):
        self.house = house
        self.engine = engine
        self.collector = collector
        self.slept = []
        self.board = Board.attach(house.instance.name, writable=True)
        self.loads = LoadReader.attach(house.instance.name)

    def book(self, dp_rank, tokens, requests=1, epoch=1):
        """A front door has that open there."""
        cell = EMPTY_CELL._replace(
            group_epoch=epoch, dispatched_tokens=tokens, dispatched_requests=requests,
            book_tokens=tokens, book_requests=requests,
        )  # fmt: skip
        self.board.write(0, dp_rank, cell)

    async def sleep(self, seconds):
        """The collector's: it ends with the third, and each is kept."""
        self.slept.append(seconds)
        if len(self.slept) == 3:
            raise EndOfTest
        await asyncio.sleep(0)

    async def read(self):
        """Read once; the reports by group."""
        await self.collector.read(URL)
        return {report.dp_rank: report for report in self.loads.snapshot().reports}

    def figures(self):
        clock_ns = self.house.clock.ns
        figures = Figures(self.loads, self.board, clock_ns, self.collector.beyond)
        return figures.read(tuple(entries(self.house.instance.backends)))


def beyond(reports):
    """Tokens and requests that each is told to hold beyond the books."""
    return {
        rank: (report.holding_tokens, report.running_requests) for rank, report in reports.items()
    }


@asynccontextmanager
async def reading(*ranks, kind=Kind.SGLANG, **settings):
    groups = tuple(BackendGroup("a", 1, kind, rank) for rank in ranks)
    engine = Engine()
    client = httpx.AsyncClient(transport=httpx.MockTransport(engine))
    async with House.built(dp_size=len(groups), backends=groups, **settings) as house, client:
        board = Board.attach(house.instance.name)
        made = Reading(house, engine, None)
        made.collector = Collector(
            house.instance, board, house.loads, client, house.clock.ns, made.sleep
        )
        try:
            yield made
        finally:
            for segment in (board, made.board, made.loads):
                segment.close()


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
        await site.collector.keep()
        site.book(0, 200)

        assert site.engine.asked == []
        assert (site.figures()[0].tokens, site.figures()[0].condition) == (200, None)


async def test_a_reading_that_is_used_no_more_is_taken_back_at_once():
    """
    A front door would go on to count the last one until it is old.
    """
    async with reading(0) as site:
        site.engine.holds(0, 500)
        assert beyond(await site.read()) == {0: (500, 1)}
        site.house.clock.now_s += 1
        site.engine.status = 500

        report = (await site.read())[0]

        assert beyond({0: report}) == {0: NOTHING}
        assert report.sampled_ns == site.house.clock.ns()
        assert report.kv_capacity_tokens == 9999


@pytest.mark.parametrize("figure", [1e30, 1 << 62, 1e400])
@pytest.mark.parametrize("rank", [0, None])
async def test_figures_that_no_engine_can_have_are_malformed(figure, rank):
    """
    They would not fit the segment.
    """
    async with reading(rank) as site:
        site.engine.holds(0, 5)
        for name in ("num_used_tokens", "num_total_tokens", "max_total_num_tokens"):
            site.engine.loads[0][name] = figure

        assert beyond(await site.read()) == {0: NOTHING}
        assert site.collector.beyond[0].condition in (Condition.MALFORMED, Condition.MISSING)


async def test_figures_that_are_too_large_together_are_malformed():
    """
    Each of them could be.
    """
    async with reading(None) as site:
        for rank in range(2):
            site.engine.holds(rank, 1)
            site.engine.loads[rank]["max_total_num_tokens"] = 1 << 48

        await site.read()

        assert site.collector.beyond[0].condition is Condition.MALFORMED


async def test_an_answer_that_nobody_thought_of_is_malformed_and_told_once(caplog):
    """
    The other engines' figures are needed.
    """

    def mistake():
        raise RecursionError("deep")

    async with reading(0) as site:
        site.engine.at_question = mistake

        assert beyond(await site.read()) == {0: NOTHING}
        assert beyond(await site.read()) == {0: NOTHING}
        assert site.collector.beyond[0].condition is Condition.MALFORMED
    assert caplog.text.count("http://a:1 gives an answer that cannot be read") == 1


@pytest.mark.parametrize(("takes_s", "pause_s"), [(0.0, 0.5), (0.3, 0.2), (0.9, 0.0)])
async def test_an_engine_is_asked_every_half_second_however_long_it_takes(takes_s, pause_s):
    """
    From question to question.
    """

    def slow():
        site.house.clock.now_s += takes_s

    async with reading(0) as site:
        site.engine.at_question = slow
        with pytest.raises(EndOfTest):
            await site.collector._keep_reading(URL)

    assert site.slept == pytest.approx([pause_s] * 3)


@pytest.mark.parametrize(("max_load_age_s", "limit_s"), [(1.0, 0.5), (2.0, 1.5), (60.0, 2.0)])
async def test_an_answer_is_waited_for_as_long_as_the_last_one_counts(max_load_age_s, limit_s):
    """
    Later ones come when the report is old.
    """
    async with reading(0, max_load_age_s=max_load_age_s) as site:
        await site.read()

    assert site.engine.limits == [limit_s]


async def test_books_between_two_readings_are_known():
    """
    Ours began and ended meanwhile, and the reading shows it still.
    """
    async with reading(0) as site:
        site.engine.holds(0, 0, running=0)
        await site.read()
        site.house.clock.now_s += 0.2
        site.book(0, 900)
        site.collector.note()
        site.house.clock.now_s += 0.3
        site.book(0, 0, 0)
        site.engine.holds(0, 900)

        assert beyond(await site.read()) == {0: NOTHING}


async def test_books_are_noted_every_fifth_of_a_second():
    """
    For as long as the collector is there.
    """
    async with reading(0) as site:
        with pytest.raises(EndOfTest):
            await site.collector._keep_noting()

    assert site.slept == [0.2] * 3
