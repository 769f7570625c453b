"""What a front door sees of tables, figures and rows, and what it tells of them."""

import itertools
import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from balancer.assignment import End
from balancer.controller import Controller
from balancer.ledger import Book, Ledger
from balancer.load import RequestShape
from balancer.policies.minimum_tokens import MinimumTokens
from router.front_door.dispatcher import Dispatcher
from router.front_door.meters import Meters
from router.front_door.upstream import Address
from shm.board import Cell
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup, charge_of
from tests.router.house import House
from tests.router.site import Site

pytestmark = pytest.mark.anyio
EVENTS = chunk(b'data: {"n":1}\n\n' * 5)


# Groups that are gone


class Eyes:
    """A dispatcher on a house's segments, and what it said of groups that are gone."""

    def __init__(self, house, segments):
        rng, size = random.Random(1), house.instance.dp_size
        doors = house.instance.num_front_doors
        ledger = Ledger(
            slot=0, epoch=5, num_front_doors=doors, num_groups=size, note=lambda rank, cell: None
        )
        self.gone = []
        self.controller = Controller(MinimumTokens(rng), ledger, size, rng, 2_000_000_000)
        self.dispatcher = Dispatcher(
            self.controller,
            segments,
            0,
            Meters(size),
            house.clock.ns,
            lambda groups: None,
            lambda address, reason: self.gone.append(address),
        )

    @classmethod
    @asynccontextmanager
    async def opened(cls):
        async with House.built() as house:
            segments = house.segments()
            try:
                yield house, cls(house, segments)
            finally:
                segments.close()


def row(state, epoch):
    """Each life has its own address."""
    return GroupEntry(0, state, epoch, "127.0.0.1", epoch)


ROWS = [(state, epoch) for state in GroupState for epoch in (1, 2)]


@pytest.mark.parametrize(("before", "now"), list(itertools.product(ROWS, repeat=2)))
async def test_a_life_is_gone_when_it_is_found_dead_or_the_next_has_begun(before, now):
    """
    Every pair of tables: told once, with the address of the life that is over; a life
    that was over does not come back.
    """
    async with Eyes.opened() as (house, eyes):
        for state, epoch in (before, now, now):
            house.publish_table(row(state, epoch))
            eyes.dispatcher.refresh()

        is_later = now[1] > before[1]
        has_died = now[0] is GroupState.DEAD is not before[0] and now[1] == before[1]
        told = [Address("127.0.0.1", before[1])] if is_later or has_died else []
        assert eyes.gone == told


async def test_a_table_that_has_not_heard_of_a_group_ends_nothing():
    """
    A control plane that starts again may know less than the one before it.
    """
    async with Eyes.opened() as (house, eyes):
        for entry in (row(GroupState.READY, 1), GroupEntry(0, GroupState.STARTING)):
            house.publish_table(entry)
            eyes.dispatcher.refresh()
        assert eyes.gone == []

        house.publish_table(row(GroupState.READY, 2))
        eyes.dispatcher.refresh()

        assert eyes.gone == [Address("127.0.0.1", 1)]


async def test_a_group_that_was_tried_is_not_chosen():
    """
    Though it holds the least.
    """
    async with Site.opened(3) as site:
        dispatcher = site.door.door.dispatcher
        chosen = []
        for excluded in ((), (0,), (0, 1)):
            assignment = dispatcher.assign(RequestShape(1), excluded)
            chosen.append(assignment.dp_rank)
            site.door.controller.release(assignment, End.UNANSWERED)

        assert chosen == [0, 1, 2]


async def test_whatever_is_taken_over_counts_as_a_change_and_nothing_else_does():
    """
    A table, reports, another front door's row, figures that are too old: each once.
    """
    async with House.built(num_front_doors=2) as house:
        segments = house.segments()
        dispatcher = Eyes(house, segments).dispatcher
        dispatcher.refresh()

        def happens_to_be_old():
            house.clock.now_s += 3

        def is_noted():
            segments.board.write(1, 0, Cell(7, 1, 10, 1, 0, 0, 10, 1))

        for happens in (
            lambda: house.publish_table(row(GroupState.READY, 1)),
            lambda: house.report(group_epoch=1),
            is_noted,
            happens_to_be_old,
        ):
            before = dispatcher.num_changes
            dispatcher.refresh()
            assert dispatcher.num_changes == before
            happens()
            dispatcher.refresh()
            assert dispatcher.num_changes == before + 1
        segments.close()


# Figures that get old


def told(caplog):
    return [
        (record.levelname, record.message) for record in caplog.records if "figures" in record.msg
    ]


async def test_figures_that_get_old_are_told_once_each_way(caplog):
    """
    One line with group, age and limit, and a count; another one when figures return.
    """
    caplog.set_level(logging.INFO, "levelhead.front_door")
    async with Site.opened(2, max_load_age_s=1.5) as site:
        meters, tick = site.door.meters, site.door.door.dispatcher.tick
        tick()
        site.house.clock.now_s += 1.5
        tick()
        assert (told(caplog), meters.stale_groups) == ([], [0, 0])

        site.house.clock.now_s += 0.25
        for _ in range(3):
            tick()

        assert told(caplog) == [
            (
                "WARNING",
                f"DP group {rank}: its figures are 1.75 s old, --max-load-age is 1.50 s: "
                "books stand in",
            )
            for rank in range(2)
        ]
        assert (meters.stale_groups, meters.stale_transitions) == ([1, 1], [1, 1])

        caplog.clear()
        site.house.report_holding(0, 0)
        for _ in range(3):
            tick()

        assert [level for level, _ in told(caplog)] == ["INFO", "INFO"]
        assert (meters.stale_groups, meters.stale_transitions) == ([0, 0], [1, 1])


@pytest.mark.parametrize("state", [GroupState.DEAD, GroupState.STARTING])
async def test_a_group_that_is_restarted_is_no_alarm(state, caplog):
    """
    It reports nothing meanwhile; one that was stale is so no more, without a word.
    """
    caplog.set_level(logging.INFO, "levelhead.front_door")
    async with Site.opened(2) as site:
        meters, door = site.door.meters, site.door.door
        rows = [GroupEntry(r, state, 11, "127.0.0.1", site.groups[r].port) for r in range(2)]
        site.present(rows[1])
        door.tick()
        site.house.clock.now_s += 10
        door.tick()
        assert (meters.stale_groups, meters.stale_transitions) == ([1, 0], [1, 0])
        caplog.clear()

        site.present(*rows)
        door.tick()

        assert (told(caplog), meters.stale_groups) == ([], [0, 0])


async def test_a_group_that_never_reported_is_not_told_as_stale(caplog):
    """
    Some engines report nothing: that is no transition.
    """
    caplog.set_level(logging.INFO, "levelhead.front_door")
    async with House.built() as house, FakeGroup.listening() as group:
        house.present(group)
        async with house.door() as door:
            house.clock.now_s += 100
            door.door.dispatcher.tick()

            assert (told(caplog), door.meters.stale_groups) == ([], [0])


@pytest.mark.parametrize(
    ("age_s", "book_decisions", "figure_decisions"), [(0, 0, 1), (2, 0, 1), (3, 1, 0)]
)
async def test_a_decision_counts_by_what_it_was_made_with(age_s, book_decisions, figure_decisions):
    """
    With the group's figures, whose age is measured, or with the books.
    """
    async with Site.opened(1) as site:
        site.house.clock.now_s += age_s
        site.client.send(post())
        (await site.groups[0].next_request()).answer()
        await site.client.response()

        meters = site.door.meters
        assert meters.book_decisions == book_decisions
        assert sum(meters.figure_age_s.counts) == figure_decisions


# Without traffic


async def test_the_door_looks_without_traffic():
    """
    A table that is published is taken over, and a group that is dead is left, by time alone.
    """
    async with Site.opened(1) as site:
        site.client.send(post())
        await site.groups[0].next_request()

        site.present(GroupEntry(0, GroupState.DEAD, 11, "127.0.0.1", site.groups[0].port))

        assert (await site.client.response()).status == 502
        assert site.door.controller.num_ready() == 0


async def test_streams_that_grow_are_noted_without_traffic():
    """
    The other front doors see the book on the board.
    """
    async with Site.opened(1) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD + EVENTS)
        await site.client.head()

        tokens = charge_of(received) + 5
        await until(lambda: site.door.cell().book_tokens == tokens)
        assert site.door.cell().book_requests == 1


# The board


@pytest.mark.parametrize(("in_flight_board", "sees"), [(True, 1), (False, 0)])
async def test_the_board_can_be_left_unread(in_flight_board, sees):
    """
    Then each door knows of its own requests alone; it notes them all the same.
    """
    settings = {"num_front_doors": 2, "in_flight_board": in_flight_board}
    async with House.built(**settings) as house, AsyncExitStack() as stack:
        group = await stack.enter_async_context(FakeGroup.listening())
        house.present(group)
        doors = [await stack.enter_async_context(house.door(slot)) for slot in range(2)]
        client = await stack.enter_async_context(doors[0].client())
        client.send(post())
        charge = charge_of(await group.next_request())
        for reports in (False, True):
            if reports:
                house.report()
            for door in doors:
                door.door.dispatcher.refresh()

            seen = [door.controller.loads()[0].requests for door in doors]
            assert seen == [1, sees]
            assert [door.controller.ledger.book(0) for door in doors] == [
                Book(charge, 1),
                Book(charge * sees, sees),
            ]
        assert doors[0].cell().dispatched_requests == 1
