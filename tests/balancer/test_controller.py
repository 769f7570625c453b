import pytest

from balancer.assignment import End
from balancer.errors import LedgerBroken, NoCandidate
from balancer.ledger import Book
from balancer.load import GroupLoad, RequestShape
from shm.board import Cell
from shm.group_table import GroupState
from tests.balancer.loads import EPOCH, GROUP_EPOCH, NUM_GROUPS, group, holding, observe, tokens


def test_a_request_goes_where_the_policy_says(controller):
    """
    Here to the group with the fewest tokens, held and in flight.
    """
    observe(controller, holding(0, 30), holding(1, 10), holding(2, 20))

    picked = [controller.assign(RequestShape(8)).dp_rank for _ in range(3)]

    assert picked == [1, 1, 2]
    assert tokens(controller) == [30, 26, 28]


def test_an_assignment_says_what_must_be_told_to_the_group(controller):
    """
    An id of 16 hex digits, the group and its epoch, and the charge.
    """
    assignment = controller.assign(RequestShape(8))

    assert len(assignment.dp_balance_id) == 16
    assert int(assignment.dp_balance_id, 16) >= 0
    assert (assignment.group_epoch, assignment.charge_tokens) == (GROUP_EPOCH, 8)


def test_every_assignment_has_its_own_id(controller):
    """
    Also those of equal requests to one group.
    """
    ids = {controller.assign(RequestShape(1)).dp_balance_id for _ in range(100)}

    assert len(ids) == 100


def test_the_charge_is_on_the_board_when_assign_returns(controller, board):
    """
    Before the caller can have sent anything.
    """
    assignment = controller.assign(RequestShape(8))

    assert board[assignment.dp_rank] == Cell(EPOCH, GROUP_EPOCH, 8, 1, 0, 0, 8, 1)


def test_an_accepted_request_moves_from_flight_to_holding(controller):
    """
    In one report, so the sum does not change.
    """
    observe(controller, *(holding(rank, 0) for rank in range(NUM_GROUPS)))
    rank = controller.assign(RequestShape(8)).dp_rank

    assert controller.loads()[rank] == GroupLoad(rank, 0, 8, 0, 1, 8)
    observe(controller, holding(rank, 8, 1, accepted=(8, 1)))
    assert controller.loads()[rank] == GroupLoad(rank, 8, 0, 1, 0)


def test_a_released_request_stays_in_flight_until_the_group_has_counted_it(controller):
    """
    The client is gone; the charge is on its way all the same.
    """
    observe(controller, *(holding(rank, 0) for rank in range(NUM_GROUPS)))
    assignment = controller.assign(RequestShape(8))

    controller.release(assignment, End.REACHED)

    assert sum(tokens(controller)) == 8
    observe(controller, holding(assignment.dp_rank, 0, accepted=(8, 1)))
    assert sum(tokens(controller)) == 0


def test_a_request_that_was_never_sent_is_taken_back(controller, board):
    """
    At once, and on the board for all to see.
    """
    observe(controller, *(holding(rank, 0) for rank in range(NUM_GROUPS)))
    assignment = controller.assign(RequestShape(8))

    controller.release(assignment, End.NEVER_SENT)

    assert tokens(controller) == [0, 0, 0]
    assert board[assignment.dp_rank] == Cell(EPOCH, GROUP_EPOCH, 8, 1, 8, 1, 0, 0)


@pytest.mark.parametrize("end", End)
def test_releasing_twice_does_no_harm(controller, end):
    """
    Whoever comes second, with whatever end, changes nothing.
    """
    assignment = controller.assign(RequestShape(8))
    controller.release(assignment, End.NEVER_SENT)
    loads, books = controller.loads(), controller.books()

    controller.release(assignment, end)

    assert (controller.loads(), controller.books()) == (loads, books)


def test_the_own_book_stands_in_for_a_group_without_a_report(controller):
    """
    Prompt tokens and every token streamed, of requests that have not ended.
    """
    observe(controller, holding(0, 1_000), holding(1, 1_000))
    assignment = controller.assign(RequestShape(8))
    controller.streamed(assignment, 5)

    assert controller.loads()[2] == GroupLoad(2, 13, 0, 1, 0)
    assert [controller.figures_are_fresh(rank) for rank in range(NUM_GROUPS)] == [True, True, False]
    controller.release(assignment, End.REACHED)
    assert controller.loads()[2] == GroupLoad(2, 0, 0, 0, 0)


def test_a_report_takes_over_from_the_book(controller):
    """
    From the first one on; what it has not accepted is in flight.
    """
    for dp_rank in (0, 1):
        controller.observe_group(group(dp_rank, GroupState.DEAD))
    for _ in range(2):
        controller.streamed(controller.assign(RequestShape(8)), 100)

    observe(controller, holding(2, 9, 1, accepted=(8, 1)))

    assert controller.loads()[2] == GroupLoad(2, 9, 8, 1, 1, 8)


def test_the_book_is_kept_beside_a_report(controller):
    """
    So that both can be compared at any time.
    """
    observe(controller, *(holding(rank, 0) for rank in range(NUM_GROUPS)))
    assignment = controller.assign(RequestShape(8))
    controller.streamed(assignment, 3)

    assert controller.books()[assignment.dp_rank] == Book(11, 1)


def test_tokens_that_stream_after_the_release_are_nobodys(controller):
    """
    The last piece of an answer may come after its client has left.
    """
    assignment = controller.assign(RequestShape(8))
    controller.release(assignment, End.REACHED)

    controller.streamed(assignment, 5)

    assert controller.books() == [Book(0, 0)] * NUM_GROUPS


def test_a_new_life_of_a_group_forgets_what_was_in_flight_to_the_old(controller):
    """
    And its report: until the new life speaks, the book stands in.
    """
    observe(controller, holding(0, 5), holding(1, 1_000), holding(2, 1_000))
    controller.assign(RequestShape(8))

    controller.observe_group(group(0, epoch=GROUP_EPOCH + 1))

    assert not controller.figures_are_fresh(0)
    observe(controller, holding(0, 5))  # of the old life
    assert not controller.figures_are_fresh(0)
    observe(controller, holding(0, 3)._replace(group_epoch=GROUP_EPOCH + 1))
    assert controller.loads()[0] == GroupLoad(0, 3, 0, 0, 0)


@pytest.mark.parametrize("epoch", [0, GROUP_EPOCH - 1, GROUP_EPOCH])
def test_a_table_that_forgot_an_epoch_does_not_begin_the_books_again(controller, epoch):
    """
    A control plane that starts anew may not know a group's epoch yet: what was
    sent in it is not forgotten, for the group has not forgotten what it accepted.
    """
    observe(controller, holding(0, 0), holding(1, 1_000), holding(2, 1_000))
    controller.assign(RequestShape(8))

    controller.observe_group(group(0, GroupState.STARTING, epoch))
    controller.observe_group(group(0))
    observe(controller, holding(0, 8, 1, accepted=(8, 1)))

    assert controller.loads()[0] == GroupLoad(0, 8, 0, 1, 0)


@pytest.mark.parametrize("state", [GroupState.READY, GroupState.SUSPECT])
def test_an_earlier_life_of_a_group_is_no_candidate_under_the_later_ones_book(controller, state):
    """
    Whoever answers there refuses what is charged to the later life, whatever the table says.
    """
    for dp_rank in (1, 2):
        controller.observe_group(group(dp_rank, GroupState.DEAD))
    controller.observe_group(group(0, GroupState.DEAD))

    controller.observe_group(group(0, state, GROUP_EPOCH - 1))

    with pytest.raises(NoCandidate, match="1 starting"):
        controller.assign(RequestShape(1))
    controller.observe_group(group(0, state))
    assert controller.assign(RequestShape(1)).group_epoch == GROUP_EPOCH


def test_other_front_doors_charges_weigh_as_much_as_own(controller):
    """
    One ledger for all front doors of a host.
    """
    observe(controller, holding(0, 10), holding(1, 20), holding(2, 30))

    controller.observe_cells(1, [(0, Cell(9, GROUP_EPOCH, 100, 2, 40, 1, 60, 1))])

    assert tokens(controller) == [70, 20, 30]
    assert controller.assign(RequestShape(1)).dp_rank == 1


def test_it_shows_itself_in_one_line(controller):
    """
    What a test or a person wants to see first.
    """
    observe(controller, holding(0, 5), holding(1, 7))
    controller.observe_group(group(2, GroupState.DEAD))
    controller.assign(RequestShape(1))

    shown = "<Controller minimum_tokens, 1 open, [0:ready 6, 1:ready 7, 2:dead 0]>"
    assert repr(controller) == shown


def test_integrity_notices_a_book_that_does_not_add_up(controller):
    """
    A planted error: tokens that were streamed past the book.
    """
    assignment = controller.assign(RequestShape(8))
    assignment.book_tokens += 1

    with pytest.raises(LedgerBroken, match=r"book Book\(tokens=8.* assignments Book\(tokens=9"):
        controller.check_integrity()
    assignment.book_tokens -= 1


def test_integrity_notices_a_ledger_that_does_not_add_up(controller):
    """
    A planted error: a group that has accepted what nobody sent.
    """
    observe(controller, holding(0, 0, accepted=(1, 1)))

    with pytest.raises(LedgerBroken, match="group 0 has InFlight"):
        controller.check_integrity()
    observe(controller, holding(0, 0))
