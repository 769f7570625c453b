import pytest

from shm.group_table import GroupState
from tests.router.keeper import SECOND_NS

READY, SUSPECT = (GroupState(word) for word in ("ready", "suspect"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("age_s", "waited_s", "expected"),
    [(9.0, 2.0, SUSPECT), (2.1, 2.0, SUSPECT), (2.0, 9.0, READY), (9.0, 1.9, READY)],
)
async def test_a_group_is_suspect_when_its_figures_are_old_and_it_does_not_answer(
    keeper, age_s, waited_s, expected
):
    """
    Old is over --max-load-age; the answer is missed after two seconds.
    """
    await keeper.both_ready()
    keeper.health.answers[1000] = None
    probing = await keeper.is_asked(0)
    keeper.now_ns += round(waited_s * SECOND_NS)
    keeper.report(age_s)

    keeper.membership.look()

    assert keeper.published == [expected, READY]
    probing.cancel()


@pytest.mark.anyio
async def test_a_group_that_has_reported_nothing_has_old_figures(keeper):
    """
    A former life's report is none.
    """
    await keeper.both_ready()
    keeper.health.answers[1000] = None
    probing = await keeper.is_asked(0)
    keeper.now_ns += 2 * SECOND_NS
    keeper.report(0.0, epoch=4)

    keeper.membership.look()

    assert keeper.published == [SUSPECT, READY]
    probing.cancel()


@pytest.mark.anyio
async def test_the_next_answer_ends_the_suspicion(keeper):
    """
    Also while the figures are away still.
    """
    await keeper.both_ready()
    keeper.health.answers[1000] = None
    probing = await keeper.is_asked(0)
    keeper.now_ns += 2 * SECOND_NS
    keeper.membership.look()
    assert keeper.published == [SUSPECT, READY]
    keeper.health.answers[1000] = 200

    await keeper.membership.probe(0)

    assert keeper.published == [READY, READY]
    keeper.now_ns += 9 * SECOND_NS
    keeper.membership.look()
    assert keeper.published == [READY, READY]
    probing.cancel()
