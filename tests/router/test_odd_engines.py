"""Engines that are slow, or answer what cannot be, and books between their answers."""

import pytest

from router.backends.readings.reading import Condition
from tests.router.collecting import NOTHING, EndOfTest, beyond, reading
from tests.router.watched_engine import EPOCH

pytestmark = pytest.mark.anyio


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
            await site.collector.keep_reading(EPOCH)

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
            await site.collector.keep()

    assert site.slept == [0.2] * 3
