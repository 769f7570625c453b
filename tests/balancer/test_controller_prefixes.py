"""What the controller does with prefixes: matched, expected, believed, forgotten."""

import random

import pytest

from balancer.assignment import End
from balancer.controller import Controller
from balancer.cost_model import CostFit
from balancer.ledger import Book, Ledger
from balancer.load import RequestShape
from balancer.policies.slack_affinity import SlackAffinity
from balancer.prefix_index import Change, PrefixEvent, PrefixIndex
from tests.balancer.loads import (
    EPOCH,
    GROUP_EPOCH,
    MAX_LOAD_AGE_NS,
    NUM_GROUPS,
    SLOT,
    group,
    holding,
    observe,
)  # fmt: skip

PROMPT = RequestShape(2010, page_digests=(1, 2), page_size=1000)


@pytest.fixture(name="controller")
def _controller():
    ledger = Ledger(
        slot=SLOT, epoch=EPOCH, num_front_doors=2, num_groups=NUM_GROUPS, note=lambda *_: None
    )
    policy, prefixes = SlackAffinity(random.Random(0), CostFit()), PrefixIndex(NUM_GROUPS)
    controller = Controller(policy, ledger, NUM_GROUPS, random.Random(1), MAX_LOAD_AGE_NS, prefixes)
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(group(dp_rank))
        observe(controller, holding(dp_rank, 0))
    yield controller
    controller.check_integrity()


def told(controller, dp_rank, *digests, epoch=GROUP_EPOCH):
    controller.observe_prefix(dp_rank, epoch, PrefixEvent(Change.STORED, digests))


def test_a_request_goes_where_its_prefix_was_stored(controller):
    """
    And what is believed of it is in the assignment, the last token left out.
    """
    told(controller, 1, 1, 2)

    whole = controller.assign(PROMPT)
    controller.release(whole, End.NEVER_SENT)
    exact = controller.assign(PROMPT._replace(prompt_tokens=2000))

    assert (whole.dp_rank, whole.cached_tokens) == (1, 2000)
    assert (exact.dp_rank, exact.cached_tokens) == (1, 1000)


def test_what_has_streamed_is_told_apart_from_what_was_cached(controller):
    """
    The charge leaves cached tokens out, the book has the whole prompt; neither was streamed.
    """
    told(controller, 1, 1, 2)
    assignment = controller.assign(PROMPT)

    controller.streamed(assignment, 2)

    assert (assignment.charge_tokens, assignment.book_tokens) == (10, 2012)
    assert assignment.streamed_tokens == 2


def test_a_fork_follows_a_request_that_is_still_under_way(controller):
    """
    Before the group has said anything.
    """
    first = controller.assign(PROMPT)

    assert controller.assign(PROMPT).dp_rank == first.dp_rank


@pytest.mark.parametrize(
    ("end", "pages"),
    [(End.COMPLETED, 2), (End.REACHED, 2), (End.UNANSWERED, 0), (End.NEVER_SENT, 0)],
)
def test_only_an_answer_says_that_the_prompt_was_computed(controller, end, pages):
    """
    A request that was refused, or sent again elsewhere, leaves nothing behind.
    """
    assignment = controller.assign(PROMPT)
    controller.release(assignment, end)
    controller.release(assignment, End.NEVER_SENT)

    assert controller.prefixes.match(PROMPT.page_digests)[assignment.dp_rank] == pages


def test_what_a_group_told_in_another_life_is_ignored(controller):
    """
    Whether it comes late, or the table is late.
    """
    told(controller, 0, 1, 2, epoch=GROUP_EPOCH - 1)
    told(controller, 0, 1, 2, epoch=GROUP_EPOCH + 1)

    assert controller.prefixes.match([1]) == [0, 0, 0]


def test_a_new_life_of_a_group_has_an_empty_cache(controller):
    """
    Its table row is enough.
    """
    told(controller, 0, 1, 2)
    told(controller, 1, 1)
    controller.observe_group(group(0, epoch=GROUP_EPOCH + 1))

    assert controller.prefixes.match([1, 2]) == [0, 1, 0]


def test_a_prompt_whose_pages_are_not_known_is_dispatched_all_the_same(controller):
    """
    Nothing is believed and nothing expected of it.
    """
    assignment = controller.assign(RequestShape(40))
    controller.release(assignment, End.REACHED)

    assert (assignment.cached_tokens, assignment.expectation) == (0, None)


def test_a_request_is_charged_what_the_group_has_to_compute(controller):
    """
    The book has all that it will hold; the group counts the charge, as it was told it.
    """
    told(controller, 1, 1)

    assignment = controller.assign(PROMPT)
    load = controller.loads()[1]

    assert (assignment.dp_rank, assignment.charge_tokens) == (1, 1010)
    assert controller.books()[1] == Book(2010, 1)
    assert (load.in_flight_tokens, load.uncached_tokens) == (1010, 1010)

    observe(controller, holding(1, 2010, 1, accepted=(1010, 1), sampled_ns=1))
    load = controller.loads()[1]
    assert (load.holding_tokens, load.in_flight_tokens, load.uncached_tokens) == (2010, 0, 0)


def test_a_charge_that_was_never_sent_is_taken_back_whole(controller):
    """
    The charge from flight, the prompt from the book.
    """
    told(controller, 1, 1)
    controller.release(controller.assign(PROMPT), End.NEVER_SENT)

    assert controller.loads()[1].tokens == 0
    assert controller.books()[1] == Book(0, 0)


def test_a_charge_is_one_token_at_least(controller):
    """
    A prompt of nothing, or one of which all is believed to be there.
    """
    shape = RequestShape(0, cached_tokens=(0, 0, 0))

    assert controller.assign(shape).charge_tokens == 1
    assert controller.assign(RequestShape(9, cached_tokens=(9, 9, 9))).charge_tokens == 1
