import logging

import httpx
import pytest

from shm.group_table import GroupState
from tests.descriptors import no_descriptors
from tests.router.fakes import soon, until
from tests.router.keeper import SECOND_NS

STARTING, READY, DEAD = (GroupState(word) for word in ("starting", "ready", "dead"))


@pytest.mark.anyio
async def test_groups_become_ready_as_they_come(keeper):
    """
    A card and a healthy answer, each group on its own.
    """
    keeper.leave_card(1, port=1001)
    keeper.health.answers = {1001: 200}

    await keeper.keep_until(STARTING, READY)

    keeper.leave_card(0, port=1000)
    keeper.health.answers |= {1000: 200}
    await keeper.keep_until(READY, READY)
    assert [(entry.epoch, entry.port) for entry in keeper.entries] == [(5, 1000), (5, 1001)]


@pytest.mark.anyio
@pytest.mark.parametrize("answers", [{}, {1000: 503}])
async def test_a_group_that_does_not_answer_is_not_ready(keeper, answers):
    """
    Whether it refuses the connection or answers that it is not well.
    """
    keeper.leave_card(0)
    keeper.health.answers = answers
    await keeper.keep_until(STARTING, STARTING)
    assert keeper.entries[0].epoch == 5

    keeper.health.answers = {1000: 200}

    await keeper.keep_until(READY, STARTING)


@pytest.mark.anyio
async def test_a_group_whose_process_has_died_is_dead_at_once(keeper, leader):
    """
    Nobody looks and nobody probes for that.
    """
    keeper.leave_card(0, pid=leader.pid)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)

    leader.kill()

    await until(lambda: keeper.published == [DEAD, STARTING])


@pytest.mark.anyio
async def test_a_card_whose_process_is_another_by_now_is_nobodys(keeper, leader):
    """
    Its number was given to somebody who started later.
    """
    keeper.leave_card(0, pid=leader.pid, start_ticks=1)

    keeper.membership.look()

    assert keeper.published == [STARTING, STARTING]
    await keeper.membership.probe(0)
    assert keeper.health.asked == []


@pytest.mark.anyio
async def test_a_dead_group_is_not_asked(keeper):
    """
    Its port may be somebody else's.
    """
    await keeper.both_ready()
    keeper.leave_card(0, pid=4_194_304)
    keeper.membership.look()
    keeper.health.asked.clear()

    await keeper.membership.probe(0)

    assert (keeper.health.asked, keeper.published) == ([], [DEAD, READY])


@pytest.mark.anyio
@pytest.mark.parametrize("content", [None, b'{"dp_rank":'])
async def test_a_card_that_is_missing_or_corrupt_is_no_death(keeper, leader, caplog, content):
    """
    The leader is asked on where it was; it is dead when its process is.
    """
    keeper.leave_card(0, pid=leader.pid)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    spoil(keeper.house.instance.card(0), content)
    caplog.clear()

    for _ in range(3):
        keeper.membership.look()
        await keeper.membership.probe(0)

    assert keeper.published == [READY, STARTING]
    assert sum("is no card" in told for told in caplog.messages) == (content is not None)
    leader.kill()
    await until(lambda: keeper.published == [DEAD, STARTING])
    keeper.leave_card(0, epoch=6)
    await keeper.keep_until(READY, STARTING)


def spoil(path, content):
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.anyio
async def test_a_group_that_has_lost_its_card_and_does_not_answer_is_dead(keeper):
    """
    After two probes, as with its card.
    """
    await keeper.both_ready()
    keeper.house.instance.card(0).unlink()
    keeper.health.answers = {1001: 200}
    keeper.membership.look()

    for _ in range(2):
        await keeper.membership.probe(0)

    assert keeper.published == [DEAD, READY]


@pytest.mark.anyio
async def test_who_may_open_no_more_files_declares_nobody_dead(keeper, caplog):
    """
    It tells once of each group's card that it cannot read it.
    """
    await keeper.both_ready()
    caplog.clear()

    with no_descriptors():
        for _ in range(3):
            keeper.membership.look()

    assert keeper.published == [READY, READY]
    assert sum("cannot be read" in told for told in caplog.messages) == 2


@pytest.mark.anyio
async def test_a_probe_that_could_not_be_made_is_no_evidence(keeper):
    """
    Nobody was asked, so nobody has failed to answer.
    """
    await keeper.both_ready()
    keeper.health.failure = httpx.PoolTimeout("no connection is free")

    for _ in range(3):
        await keeper.membership.probe(0)
        keeper.now_ns += 9 * SECOND_NS
        keeper.membership.look()

    assert keeper.published == [READY, READY]


@pytest.mark.anyio
async def test_an_address_that_is_none_does_not_answer(keeper):
    """
    And ends nobody's watch over the other groups.
    """
    keeper.leave_card(0, host="no address\x00")
    keeper.membership.look()

    await keeper.membership.probe(0)

    assert keeper.published == [STARTING, STARTING]


@pytest.mark.anyio
async def test_a_silent_group_does_not_hold_up_the_others(keeper):
    """
    Each is probed in its own time.
    """
    await keeper.both_ready()
    keeper.health.answers[1000] = None
    stuck = await keeper.is_asked(0)

    await soon(keeper.membership.probe(1))

    assert not stuck.done()
    stuck.cancel()


@pytest.mark.anyio
async def test_two_unanswered_probes_are_death(keeper):
    """
    And an answer brings the group back.
    """
    await keeper.both_ready()
    keeper.health.answers = {1001: 200}

    await keeper.membership.probe(0)
    assert keeper.published == [READY, READY]
    await keeper.membership.probe(0)
    assert keeper.published == [DEAD, READY]

    keeper.health.answers[1000] = 200
    await keeper.membership.probe(0)
    assert keeper.published == [READY, READY]


@pytest.mark.anyio
@pytest.mark.parametrize(("state", "level"), [("ready", "WARNING"), ("draining", "INFO")])
async def test_an_end_is_told_once_and_louder_if_nobody_asked_for_it(keeper, caplog, state, level):
    """
    A group that has drained is gone as it should be.
    """
    caplog.set_level(logging.INFO, "levelhead.control_plane")
    await keeper.both_ready()
    keeper.leave_card(1, state=state)
    keeper.membership.look()
    caplog.clear()
    keeper.leave_card(1, pid=4_194_304)

    keeper.membership.look()
    keeper.membership.look()

    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == [(level, "DP group 1 is dead")]
