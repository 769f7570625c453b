import asyncio
import os
from dataclasses import replace

import httpx
import orjson
import pytest

from router.control_plane.membership import Card, Member, Membership, presented, probed
from shm.group_table import GroupEntry, GroupState, GroupTableReader
from tests.router.fakes import House, until

STARTING, READY, DRAINING, DEAD = GroupState
UNKNOWN = Member(GroupEntry(0, STARTING))


def card(epoch=5, port=1000, pid=1, **fields):
    return Card(0, epoch, "127.0.0.1", port, pid, "m", 2048, "/t", 16, **fields)


def member(state, epoch=5, port=1000, failed_probes=0, given=None):
    entry = GroupEntry(0, state, epoch, "127.0.0.1", port, "m", 2048, "/t", 16)
    return Member(entry, given, failed_probes)


# What a look at the card changes


def test_a_first_card_makes_a_group_known_but_not_ready():
    """
    Its health is yet to be asked.
    """
    assert presented(UNKNOWN, card(), process_alive=True) == member(STARTING, given=card())


@pytest.mark.parametrize("state", [STARTING, READY, DRAINING, DEAD])
def test_a_later_epoch_is_a_new_life(state):
    """
    Whatever the old life's state and failures were.
    """
    old = member(state, failed_probes=1, given=card())

    new = presented(old, card(6, 1001), process_alive=True)

    assert new == member(STARTING, 6, 1001, given=card(6, 1001))


@pytest.mark.parametrize("state", [STARTING, READY, DRAINING])
@pytest.mark.parametrize(
    ("found", "alive"), [(None, False), (card(), False), (card(4), True), (card(6), False)]
)
def test_a_known_group_without_a_living_card_is_dead(state, found, alive):
    """
    The card is gone, its process is dead, or it is a former life's.
    """
    dead = presented(member(state, given=card()), found, process_alive=alive)

    assert dead == member(DEAD)


@pytest.mark.parametrize(("found", "alive"), [(None, False), (card(), False)])
def test_an_unknown_group_is_not_declared_dead(found, alive):
    """
    It is still starting.
    """
    assert presented(UNKNOWN, found, process_alive=alive) == UNKNOWN


@pytest.mark.parametrize("state", [STARTING, READY, DRAINING, DEAD])
def test_the_same_card_changes_no_state(state):
    """
    After a restart of the control plane a known group's card is taken up again.
    """
    same = presented(member(state, failed_probes=1), card(), process_alive=True)

    assert same == member(state, failed_probes=1, given=card())


# What a probe changes


@pytest.mark.parametrize(
    ("before", "after"), [(STARTING, READY), (READY, READY), (DRAINING, DRAINING), (DEAD, READY)]
)
def test_an_answer_makes_a_group_ready_and_forgets_failures(before, after):
    """
    Unless it is draining: that is not health's to undo.
    """
    assert probed(member(before, failed_probes=1), healthy=True) == member(after)


@pytest.mark.parametrize("before", [READY, DRAINING])
def test_two_failures_in_a_row_are_death(before):
    """
    One may be a slow step.
    """
    once = probed(member(before), healthy=False)
    assert once == member(before, failed_probes=1)
    assert probed(once, healthy=False) == member(DEAD, failed_probes=2)


def test_a_starting_group_may_fail_as_often_as_it_likes():
    """
    It was never a candidate.
    """
    group = member(STARTING)
    for _ in range(9):
        group = probed(group, healthy=False)

    assert group.entry.state is STARTING


# The keeper of the table


class Health:
    """Answers `/health` by port; a port that is not in `answers` refuses."""

    def __init__(self):
        self.answers = {}

    def __call__(self, request):
        if request.url.port not in self.answers:
            raise httpx.ConnectError("refused")
        return httpx.Response(self.answers[request.url.port])


class Keeper:
    """A membership with its surroundings."""

    def __init__(self, house):
        self.house = house
        self.health = Health()
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.health))
        self.reader = GroupTableReader.attach(house.instance.name)
        self.membership = self.another()

    def another(self, client=None):
        """A membership that begins with the table that is published now."""
        client = client or self.client
        return Membership(self.house.instance, self.house.table, client, lambda: 1, self.entries)

    def leave_card(self, dp_rank, epoch=5, port=1000, pid=None):
        written = replace(card(epoch, port), dp_rank=dp_rank, pid=pid or os.getpid())
        values = {name: getattr(written, name) for name in Card.__slots__}
        self.house.instance.card(dp_rank).write_bytes(orjson.dumps(values))

    async def keep_until(self, *states, membership=None):
        keeping = asyncio.create_task((membership or self.membership).keep())
        try:
            await until(lambda: self.published == list(states))
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    @property
    def entries(self):
        table = self.reader.snapshot()
        return table.groups if table else ()

    @property
    def published(self):
        return [entry.state for entry in self.entries]


@pytest.fixture
async def keeper():
    async with House.built(dp_size=2) as house:
        built = Keeper(house)
        yield built
        await built.client.aclose()
        built.reader.close()


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
async def test_a_group_whose_process_has_died_is_dead_at_the_next_look(keeper):
    """
    No probe is needed for that.
    """
    process = await asyncio.create_subprocess_exec("sleep", "60")
    keeper.leave_card(0, pid=process.pid)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)
    process.kill()
    await process.wait()

    keeper.membership.look()

    assert keeper.published == [DEAD, STARTING]


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
        probing = asyncio.create_task(membership.probe_all())
        await asked.wait()
        keeper.leave_card(0, epoch=6)
        membership.look()
        answer.set()
        await probing

    assert keeper.published == [STARTING, STARTING]
    assert keeper.entries[0].epoch == 6
