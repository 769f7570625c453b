"""Whose figures count, told through the controller that asks.  Samples may be 1,000 ns old."""

import random
from itertools import product

import pytest

from balancer.controller import Controller
from balancer.freshness import FreshnessChange
from balancer.ledger import Book, Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.random_choice import RandomChoice
from shm.board import Cell
from tests.balancer.loads import (
    EPOCH,
    GROUP_EPOCH,
    MAX_LOAD_AGE_NS,
    NUM_GROUPS,
    SLOT,
    group,
    holding,
    observe,
)

LATE_NS = MAX_LOAD_AGE_NS + 1
WENT_STALE, FRESH_AGAIN = FreshnessChange(0, False, LATE_NS), FreshnessChange(0, True, 0)


@pytest.fixture(name="controller")
def _controller(controller):
    """Groups 1 and 2 are busy and young: the tests look at group 0."""
    observe(controller, *(holding(rank, 1 << 40, sampled_ns=1 << 40) for rank in (1, 2)))
    return controller


@pytest.fixture(name="untold")
def _untold(board):
    """A controller that has heard of the groups and of no report."""
    ledger = Ledger(
        slot=SLOT, epoch=EPOCH, num_front_doors=2, num_groups=NUM_GROUPS, note=board.__setitem__
    )
    rng = random.Random(0)
    controller = Controller(RandomChoice(rng), ledger, NUM_GROUPS, rng, MAX_LOAD_AGE_NS)
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(group(dp_rank))
    return controller


def fresh(controller):
    return controller.figures_are_fresh(0)


def test_a_report_counts_until_it_is_older_than_the_limit(controller):
    """
    At the limit it still does; the change is told once.
    """
    observe(controller, holding(0, 50))

    assert [controller.observe_time(now) for now in (1, MAX_LOAD_AGE_NS)] == [[], []]
    assert controller.observe_time(LATE_NS) == [WENT_STALE]
    assert controller.observe_time(LATE_NS + 1) == []
    assert not fresh(controller)


def test_a_report_counts_only_once_its_age_is_known(controller):
    """
    The first that a front door reads may be as old as a frozen segment.
    """
    controller.observe_reports([holding(0, 50)])
    assert (fresh(controller), controller.loads()[0].tokens) == (False, 0)

    controller.observe_time(1)
    assert (fresh(controller), controller.loads()[0].tokens) == (True, 50)


def test_a_first_report_that_is_too_old_is_told_and_does_not_count(controller):
    """
    A front door that starts while the publisher stands still says so.
    """
    assert observe(controller, holding(0, 50), now_ns=LATE_NS) == [WENT_STALE]
    assert (fresh(controller), controller.loads()[0].tokens) == (False, 0)


def test_a_first_report_that_is_young_is_no_news(controller):
    """
    Every start is like that.
    """
    assert observe(controller, holding(0, 50)) == []
    assert fresh(controller)


def test_a_group_that_has_never_reported_is_not_stale(controller):
    """
    It has nothing to be old; the books stand in all the same.
    """
    assert controller.observe_time(LATE_NS) == []
    assert not fresh(controller)


def test_a_stale_group_that_reports_is_fresh_again(controller):
    """
    Told once, and its report counts at once.
    """
    observe(controller, holding(0, 50), now_ns=0)
    controller.observe_time(LATE_NS)

    assert observe(controller, holding(0, 70, sampled_ns=LATE_NS), now_ns=LATE_NS) == [FRESH_AGAIN]
    assert controller.loads()[0] == GroupLoad(0, 70, 0, 0, 0)


def test_a_stale_group_whose_next_report_is_too_old_as_well_stays_stale(controller):
    """
    Reports that come late, one after the other, are no news.
    """
    observe(controller, holding(0, 50), now_ns=LATE_NS)

    assert observe(controller, holding(0, 70, sampled_ns=1), now_ns=LATE_NS + 5) == []
    assert (fresh(controller), controller.loads()[0].tokens) == (False, 0)


def test_a_new_epoch_is_neither_stale_nor_fresh_until_it_reports(controller):
    """
    If it was fresh before, nothing happened.
    """
    observe(controller, holding(0, 50))
    controller.observe_group(group(0, epoch=GROUP_EPOCH + 1))

    assert (controller.observe_time(LATE_NS), fresh(controller)) == ([], False)
    reborn = holding(0, 3, sampled_ns=LATE_NS)._replace(group_epoch=GROUP_EPOCH + 1)
    assert observe(controller, reborn, now_ns=LATE_NS) == []
    assert fresh(controller)


def test_a_group_that_stands_still_is_stale_alone(controller):
    """
    The age is that of its own sample.
    """
    observe(controller, holding(0, 50), holding(1, 60, sampled_ns=1 << 41))

    assert [change.dp_rank for change in controller.observe_time(LATE_NS)] == [0]
    assert [controller.figures_are_fresh(rank) for rank in range(NUM_GROUPS)] == [False, True, True]


def test_figures_that_froze_at_zero_attract_nobody(controller):
    """
    A stale group weighs what all front doors have open on it, not what it said.
    """
    observe(controller, holding(0, 0), now_ns=LATE_NS)
    controller.observe_cells(1, [(0, Cell(9, GROUP_EPOCH, 900, 3, 0, 0, 700, 2))])

    assert controller.loads()[0] == GroupLoad(0, 700, 0, 2, 0)


def test_the_others_books_follow_what_they_note(controller):
    """
    Also where nothing but the book has changed; those of another life do not count.
    """
    cell = Cell(9, GROUP_EPOCH, 900, 3, 0, 0, 700, 2)
    loads = []
    for noted in (cell, cell._replace(book_tokens=705), cell._replace(group_epoch=GROUP_EPOCH - 1)):
        controller.observe_cells(1, [(0, noted)])
        loads.append(controller.loads()[0].tokens)

    assert loads == [700, 705, 0]


def test_a_stale_group_is_full_by_its_last_report(controller):
    """
    The limit that it told has not changed with its age.
    """
    observe(controller, holding(0, 0, max_requests=2), now_ns=LATE_NS)

    assert [controller.assign(RequestShape(1)).dp_rank for _ in range(3)] in (
        [0, 0, 1],
        [0, 0, 2],
    )


def test_streams_reach_the_board_with_the_next_note(controller, board):
    """
    Not with every token: a cell is written where the book has changed since.
    """
    observe(controller, holding(0, 0))
    assignment = controller.assign(RequestShape(8))
    noted = board[0]
    controller.streamed(assignment, 5)
    assert board[0] is noted

    controller.note_books()
    assert board[0] == Cell(EPOCH, GROUP_EPOCH, 8, 1, 0, 0, 13, 1)
    noted = board[0]
    controller.note_books()
    assert board[0] is noted


def test_requests_of_an_ended_life_are_in_no_book(controller, board):
    """
    They are open still, here, until their connections are found broken.
    """
    observe(controller, holding(0, 0))
    assignment = controller.assign(RequestShape(8))
    controller.observe_group(group(0, epoch=GROUP_EPOCH + 1))

    controller.streamed(assignment, 5)
    controller.note_books()

    assert controller.books()[0] == Book(0, 0)
    assert board[0] == Cell(EPOCH, GROUP_EPOCH + 1, 0, 0, 0, 0, 0, 0)
    controller.check_integrity()


def told_by_looking_at_each(samples, now_ns, was_stale):
    """What there is to tell, worked out anew from the newest sample of each group."""
    for dp_rank, sampled_ns in enumerate(samples):
        if sampled_ns is not None and (now_ns - sampled_ns > MAX_LOAD_AGE_NS) != was_stale[dp_rank]:
            was_stale[dp_rank] = not was_stale[dp_rank]
            yield FreshnessChange(dp_rank, not was_stale[dp_rank], now_ns - sampled_ns)


@pytest.mark.parametrize("seed", range(20))
def test_deadlines_miss_nothing_that_looking_at_every_group_finds(seed, untold):
    """
    Reports of any age at any time: the same changes, told at the same times.
    """
    rng, now_ns = random.Random(seed), 0
    samples, was_stale = [None] * NUM_GROUPS, [False] * NUM_GROUPS
    for _, dp_rank in product(range(300), range(NUM_GROUPS)):
        if rng.random() < 0.3:
            sampled_ns = now_ns - rng.randrange(MAX_LOAD_AGE_NS * 3 // 2)
            untold.observe_reports([holding(dp_rank, 0, sampled_ns=sampled_ns)])
            samples[dp_rank] = max(sampled_ns, samples[dp_rank] or sampled_ns)
        now_ns += rng.choice([0, 1, MAX_LOAD_AGE_NS // 4])
        expected = list(told_by_looking_at_each(samples, now_ns, was_stale))
        assert sorted(untold.observe_time(now_ns)) == expected
