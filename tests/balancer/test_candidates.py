"""Which groups the controller lets its policy choose from."""

import random

import pytest

from balancer.controller import Controller
from balancer.errors import NoCandidate
from balancer.ledger import Book, Ledger
from balancer.load import RequestShape
from balancer.policies.minimum_tokens import MinimumTokens
from shm.group_table import GroupState
from tests.balancer.loads import NUM_GROUPS, group, holding, observe


@pytest.mark.parametrize(
    "state", [GroupState.STARTING, GroupState.SUSPECT, GroupState.DRAINING, GroupState.DEAD]
)
def test_only_a_ready_group_is_a_candidate(controller, state):
    """
    Not one that starts, drains or is dead, however little it holds.
    """
    observe(controller, holding(0, 0), holding(1, 50), holding(2, 40))

    controller.observe_group(group(0, state))

    assert controller.assign(RequestShape(1)).dp_rank == 2
    assert controller.num_ready() == 2


def test_a_group_that_is_ready_again_is_a_candidate_again(controller):
    """
    With the same books, if it is in the same life.
    """
    observe(controller, holding(0, 0), holding(1, 50), holding(2, 40))
    controller.observe_group(group(0, GroupState.DEAD))

    controller.observe_group(group(0))

    assert controller.assign(RequestShape(1)).dp_rank == 0


def test_a_full_group_is_no_candidate(controller):
    """
    Full counts what runs, what waits, and what is on its way.
    """
    full = {"waiting_requests": 1, "max_requests": 4}
    observe(controller, holding(0, 0, 2, **full), holding(1, 50), holding(2, 40))

    assert [controller.assign(RequestShape(0)).dp_rank for _ in range(2)] == [0, 2]


def test_without_a_candidate_the_reason_is_given(controller):
    """
    How many groups are full, and how many in which state.
    """
    observe(controller, holding(0, 0, 4, max_requests=4))
    controller.observe_group(group(1, GroupState.DEAD))
    controller.observe_group(group(2, GroupState.STARTING))

    with pytest.raises(NoCandidate, match="1 full, 1 dead, 1 starting"):
        controller.assign(RequestShape(1))


def test_nobody_is_a_candidate_before_the_first_table(board):
    """
    A front door that has read nothing yet sends nothing.
    """
    ledger = Ledger(slot=0, epoch=1, num_front_doors=1, num_groups=2, note=board.__setitem__)
    controller = Controller(MinimumTokens(random.Random(0)), ledger, 2, random.Random(1), 1_000)

    with pytest.raises(NoCandidate, match="there is none"):
        controller.assign(RequestShape(1))


def test_a_refused_assignment_charges_nobody(controller, board):
    """
    No candidate, no change.
    """
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(group(dp_rank, GroupState.DRAINING))
    before = dict(board)

    with pytest.raises(NoCandidate, match="3 draining"):
        controller.assign(RequestShape(1))
    assert (board, controller.books()) == (before, [Book(0, 0)] * NUM_GROUPS)


def test_a_group_without_a_report_is_never_full(controller):
    """
    It has not said how many requests it takes; it will refuse what it cannot.
    """
    for dp_rank in (0, 1):
        controller.observe_group(group(dp_rank, GroupState.DEAD))

    assert {controller.assign(RequestShape(1)).dp_rank for _ in range(1_000)} == {2}


def test_a_suspect_group_is_chosen_when_no_ready_one_can_be(controller):
    """
    Dead, draining, full or excluded is the rest: a slow answer is better than none.
    """
    observe(controller, holding(0, 0), holding(1, 50, 4, max_requests=4), holding(2, 40))
    controller.observe_group(group(0, GroupState.SUSPECT))
    assert controller.assign(RequestShape(1)).dp_rank == 2

    assert controller.assign(RequestShape(1), excluded=[2]).dp_rank == 0
    controller.observe_group(group(2, GroupState.DRAINING))
    assert controller.assign(RequestShape(1)).dp_rank == 0


def test_a_suspect_group_that_is_full_is_no_candidate_either(controller):
    """
    By its last report; two suspects are told apart by the policy as any two groups are.
    """
    full = holding(0, 0, 4, max_requests=4)
    observe(controller, full, holding(1, 50), holding(2, 40))
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(group(dp_rank, GroupState.SUSPECT))

    assert controller.assign(RequestShape(1)).dp_rank == 2
    with pytest.raises(NoCandidate, match="1 full, 2 excluded"):
        controller.assign(RequestShape(1), excluded={1, 2})


def test_an_excluded_group_is_not_chosen_and_keeps_its_books(controller):
    """
    A request is never sent to one group twice; others may go there.
    """
    observe(controller, holding(0, 0), holding(1, 50), holding(2, 40))

    assert controller.assign(RequestShape(1), excluded=(0,)).dp_rank == 2
    assert controller.assign(RequestShape(1)).dp_rank == 0
    with pytest.raises(NoCandidate, match="3 excluded"):
        controller.assign(RequestShape(1), excluded=(0, 1, 2))


def test_a_group_that_was_asked_for_is_the_only_candidate(controller):
    """
    However loaded it is.
    """
    observe(controller, holding(0, 0), holding(1, 50), holding(2, 40))

    assert controller.assign(RequestShape(1, dp_rank=1)).dp_rank == 1


@pytest.mark.parametrize(
    ("state", "reason"),
    [(GroupState.DEAD, "dead"), (GroupState.DRAINING, "draining"), (GroupState.READY, "full")],
)
def test_a_group_that_was_asked_for_and_cannot_take_it_is_told_with_the_reason(
    controller, state, reason
):
    """
    Nobody else gets the request.
    """
    observe(controller, holding(0, 0), holding(1, 50, 4, max_requests=4), holding(2, 40))
    controller.observe_group(group(1, state))

    with pytest.raises(NoCandidate, match=f"^DP group 1, which was asked for, is {reason}$"):
        controller.assign(RequestShape(1, dp_rank=1))


def test_a_suspect_group_that_was_asked_for_is_taken(controller):
    """
    Though others are ready; but not a second time.
    """
    observe(controller, *(holding(rank, 0) for rank in range(NUM_GROUPS)))
    controller.observe_group(group(1, GroupState.SUSPECT))

    assert controller.assign(RequestShape(1, dp_rank=1)).dp_rank == 1
    with pytest.raises(NoCandidate, match="is excluded"):
        controller.assign(RequestShape(1, dp_rank=1), excluded=(1,))


def test_a_suspect_group_does_not_stand_in_for_the_one_that_was_asked_for(controller):
    """
    A request that names its group goes there or nowhere.
    """
    for dp_rank, state in enumerate((GroupState.DEAD, GroupState.SUSPECT, GroupState.DEAD)):
        controller.observe_group(group(dp_rank, state))

    with pytest.raises(NoCandidate, match="DP group 2, which was asked for, is dead"):
        controller.assign(RequestShape(1, dp_rank=2))
