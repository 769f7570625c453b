"""Groups of other people's engines: asked for their health, and never taken for dead too soon."""

import pytest

from router.backends.backend import Kind
from shm.group_table import GroupState
from tests.router.watched_engine import EPOCH, URL, watching

pytestmark = pytest.mark.anyio
STARTING, READY, SUSPECT, DRAINING, DEAD = map(
    GroupState, ("starting", "ready", "suspect", "draining", "dead")
)


async def test_ranks_of_one_engine_are_ready_by_one_answer():
    """
    At one address, each with its number there.
    """
    async with watching(0, 1) as site:
        assert await site.probed() == [READY, READY]

        assert site.engine.asked == ["/health"]
        rows = [(g.host, g.port, g.engine, g.engine_rank) for g in site.membership.groups]
        assert rows == [("a", 1, "vllm", 0), ("a", 1, "vllm", 1)]


@pytest.mark.parametrize(
    ("kind", "path", "well", "unwell"),
    [
        (Kind.LLAMACPP, "/health", 200, 503),
        (Kind.SGLANG, "/health", 200, 503),
        (Kind.LEVELHEAD, "/ready", 200, 503),
        (Kind.OPENAI, "/v1/models", 401, 500),
    ],
)
async def test_each_kind_is_asked_where_it_tells_its_health(kind, path, well, unwell):
    """
    Any OpenAI server has models, perhaps behind a key.
    """
    async with watching(kind=kind) as site:
        site.engine.status = unwell
        assert await site.probed() == [STARTING]
        site.engine.status = well
        assert await site.probed() == [READY]

        assert site.engine.asked == [path, path]


async def test_an_engine_that_refuses_twice_is_dead_until_it_answers_well():
    """
    In the same epoch: it has no counters that could be an earlier life's.
    """
    async with watching() as site:
        await site.probed()
        epoch = site.membership.groups[0].epoch
        site.engine.status = None

        assert await site.probed() == [READY]
        assert await site.probed() == [DEAD]
        site.engine.status = 200
        assert await site.probed() == [READY]
        assert site.membership.groups[0].epoch == epoch == site.house.instance.epoch


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_engine_that_answers_badly_is_suspect_and_never_dead(status):
    """
    At once and for however long: it is there, and what it has under way may go well.
    """
    async with watching() as site:
        await site.probed()
        site.engine.status = status

        assert await site.probed() == [SUSPECT]
        assert await site.probed(5, after_s=31.0) == [SUSPECT]
        site.engine.status = 200
        assert await site.probed() == [READY]


async def test_a_dead_engine_that_answers_badly_is_dead():
    """
    As while it loads its model: it was not told to be ready yet.
    """
    async with watching() as site:
        await site.probed()
        site.engine.status = None
        assert await site.probed(2) == [DEAD]
        site.engine.status = 503

        assert await site.probed(3) == [DEAD]


async def test_connections_must_break_twice_with_no_answer_between():
    """
    A bad answer is one.
    """
    async with watching() as site:
        await site.probed()
        for status in (None, 503, None):
            site.engine.status = status
            await site.probed()

        assert site.states == [SUSPECT]
        assert await site.probed() == [DEAD]


async def test_an_engine_is_asked_again_after_a_second_and_sooner_if_nothing_is_under_way():
    """
    Two failures that end what is under way are that far apart.
    """
    async with watching() as site:
        pauses = [site.membership.pause_s(EPOCH)]
        for status in (200, 503, None, None):
            site.engine.status = status
            await site.probed()
            pauses.append(site.membership.pause_s(EPOCH))

        assert pauses == [0.2, 1.0, 1.0, 1.0, 0.2]


async def test_a_drained_engine_that_answers_badly_goes_on_draining():
    """
    It was not restarted yet.
    """
    async with watching() as site:
        await site.probed()
        site.membership.drain(0)
        site.engine.status = 503
        assert await site.probed(3) == [DRAINING]
        site.engine.status = 200

        assert await site.probed() == [DRAINING]


async def test_an_engine_that_is_silent_is_suspect_and_after_half_a_minute_dead():
    """
    It may be computing: what it has under way is not cut sooner.
    """
    async with watching() as site:
        await site.probed()
        site.engine.hangs = True

        assert await site.probed(after_s=1.9) == [READY]
        assert await site.probed(after_s=0.1) == [SUSPECT]
        assert await site.probed(3, after_s=27.9) == [SUSPECT]
        assert await site.probed(after_s=0.1) == [DEAD]


async def test_a_suspect_engine_that_answers_is_ready():
    """
    At once.
    """
    async with watching() as site:
        await site.probed()
        site.engine.hangs = True
        assert await site.probed(after_s=2.0) == [SUSPECT]
        site.engine.hangs = False

        assert await site.probed() == [READY]


async def test_a_drained_group_gets_nothing_more_and_its_engine_is_let_alone():
    """
    Though it answers well; the other rank goes on.
    """
    async with watching(0, 1) as site:
        await site.probed()

        assert site.membership.drain(0).state is DRAINING

        assert await site.probed() == [DRAINING, READY]


async def test_a_drained_engine_that_was_restarted_serves_again():
    """
    It has refused meanwhile: its requests have ended, and it was drained for that.
    """
    async with watching() as site:
        await site.probed()
        site.membership.drain(0)
        site.engine.status = None
        assert await site.probed(2) == [DEAD]
        site.engine.status = 200

        assert await site.probed() == [READY]


async def test_what_an_engine_serves_is_in_the_rows_of_all_its_ranks():
    """
    Adapters too; it stays there while the engine says nothing.
    """
    async with watching(0, 1) as site:
        await site.probed()
        assert [row.models for row in site.membership.groups] == [(), ()]

        await site.models.ask(URL)
        await site.probed()
        site.engine.status = None
        await site.models.ask(URL)
        await site.probed(2)

        assert [row.models for row in site.membership.groups] == [("m", "lora")] * 2


async def test_a_later_life_of_the_control_plane_knows_what_was_known():
    """
    Nobody is taken for starting again, and who drains goes on draining.
    """
    async with watching(0, 1) as site:
        await site.probed()
        site.membership.drain(1)

        site.membership = site.another()

        assert await site.probed() == [READY, DRAINING]


async def test_a_table_is_published_before_anybody_has_answered():
    """
    The front doors are started on it.
    """
    async with watching(0, 1) as site:
        site.engine.status = None

        assert site.states == [STARTING, STARTING]
        assert site.engine.asked == []
