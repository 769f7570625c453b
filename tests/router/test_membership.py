import asyncio
import logging
import signal
from dataclasses import replace

import httpx
import pytest

from shm.group_table import GroupState
from tests.router.fakes import soon, turns, until
from tests.router.keeper import SECOND_NS, Keeper

STARTING, READY, SUSPECT, DRAINING, DEAD = (
    GroupState(word) for word in ("starting", "ready", "suspect", "draining", "dead")
)


@pytest.fixture
async def keeper():
    async with Keeper.built() as built:
        yield built


@pytest.fixture
async def leader():
    """A process that might be a group's leader."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    yield process
    if process.returncode is None:
        process.kill()
    await soon(process.wait())


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
async def test_a_corrupt_card_is_as_none(keeper, caplog):
    """
    The others' groups go on, and so does this one with its next life.
    """
    await keeper.both_ready()
    keeper.house.instance.card(0).write_bytes(b'{"dp_rank":')
    caplog.clear()

    for _ in range(3):
        keeper.membership.look()

    assert keeper.published == [DEAD, READY]
    assert sum("is no card" in told for told in caplog.messages) == 1
    keeper.leave_card(0, epoch=6)
    await keeper.keep_until(READY, READY)


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


# Suspicion


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


# Draining


@pytest.fixture
def seen_when_told(keeper):
    """The table at each SIGTERM that comes to this process, which is the leader of both groups."""
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda *_: seen.append(keeper.published))
    yield seen
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.anyio
async def test_a_group_drains_in_the_table_before_its_process_is_told(keeper, seen_when_told):
    """
    So that no request is on its way to somebody who leaves.
    """
    await keeper.both_ready()

    entry = keeper.membership.drain(0)

    await until(lambda: seen_when_told)
    assert seen_when_told == [[DRAINING, READY]]
    assert (entry.state, entry.epoch) == (DRAINING, 5)


@pytest.mark.anyio
async def test_a_process_is_told_to_drain_once(keeper, seen_when_told):
    """
    A second signal would cut its requests.
    """
    await keeper.both_ready()

    for _ in range(3):
        keeper.membership.drain(0)
        keeper.membership.look()
        await turns()

    assert len(seen_when_told) == 1


@pytest.mark.anyio
async def test_only_the_process_of_that_group_is_told(keeper, leader):
    """
    By SIGTERM.
    """
    keeper.leave_card(0)
    keeper.leave_card(1, port=1001, pid=leader.pid)
    keeper.health.answers = {1000: 200, 1001: 200}
    await keeper.keep_until(READY, READY)

    keeper.membership.drain(1)

    assert await soon(leader.wait()) == -signal.SIGTERM


@pytest.mark.anyio
async def test_a_card_that_says_draining_makes_its_group_drain(keeper, seen_when_told):
    """
    Somebody else has told its process, which is not told again.
    """
    await keeper.both_ready()
    keeper.leave_card(0, state="draining")

    keeper.membership.look()
    await keeper.membership.probe(0)
    await turns()

    assert (keeper.published, seen_when_told) == ([DRAINING, READY], [])


@pytest.mark.anyio
async def test_a_drain_that_a_former_control_plane_began_is_ended(keeper, leader):
    """
    It had told the table, and not yet the process.
    """
    keeper.leave_card(0, pid=leader.pid)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    draining = tuple(
        replace(entry, state=DRAINING) if entry.dp_rank == 0 else entry for entry in keeper.entries
    )
    keeper.house.publish_table(*draining)

    keeper.another().look()

    assert keeper.published == [DRAINING, STARTING]
    assert await soon(leader.wait()) == -signal.SIGTERM


# Restarts


@pytest.mark.anyio
async def test_a_new_control_plane_keeps_what_it_finds(keeper):
    """
    A ready group stays ready through the restart, in its epoch, at every publication.
    """
    keeper.leave_card(0)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    sequence = keeper.reader.current_sequence

    reborn = keeper.another()
    reborn.look()

    assert keeper.published == [READY, STARTING]
    assert keeper.reader.current_sequence == sequence
    keeper.house.instance.card(0).unlink()
    reborn.look()
    assert (keeper.entries[0].state, keeper.entries[0].epoch) == (DEAD, 5)


@pytest.mark.anyio
async def test_a_group_that_came_back_while_the_control_plane_was_away_is_a_new_life(keeper):
    """
    Its epoch moves on, so that charges of the old one end.
    """
    keeper.leave_card(0)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    keeper.leave_card(0, epoch=6, port=1002)

    reborn = keeper.another()
    reborn.look()

    assert (keeper.entries[0].state, keeper.entries[0].epoch) == (STARTING, 6)
    keeper.health.answers = {1002: 200}
    await keeper.keep_until(READY, STARTING, membership=reborn)


@pytest.mark.anyio
async def test_an_answer_of_a_former_life_changes_nothing(keeper):
    """
    A probe that was under way while the group was reborn speaks of the old one.
    """
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(request):
        asked.set()
        await answer.wait()
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as client:
        membership = keeper.another(client)
        keeper.leave_card(0)
        membership.look()
        probing = asyncio.create_task(membership.probe(0))
        await asked.wait()
        keeper.leave_card(0, epoch=6)
        membership.look()
        answer.set()
        await probing

    assert keeper.published == [STARTING, STARTING]
    assert keeper.entries[0].epoch == 6


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
    keeper.house.instance.card(1).unlink()

    keeper.membership.look()
    keeper.membership.look()

    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == [(level, "DP group 1 is dead")]
