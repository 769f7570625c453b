import random
import sys

import orjson
import pytest

from balancer.assignment import End
from balancer.breakers import assign_around
from balancer.choice import Why
from balancer.controller import Controller
from balancer.cost_model import CostFit
from balancer.decision import MAX_CANDIDATES, MAX_NAMED, Decision, Source
from balancer.exclusion import Exclusion, because
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.methods import METHODS, PREFIX_METHODS, make_policy
from balancer.prefix_index import Change, PrefixEvent, PrefixIndex
from balancer.slow_start import SlowStart
from shm.group_table import GroupEntry, GroupState
from tests.balancer.loads import EPOCH, GROUP_EPOCH, MAX_LOAD_AGE_NS, group, holding, observe

DIGESTS = list(range(100, 110))


def made(method, num_groups, *, keeps_decisions=True, seed=1, slow_start=None):
    """A controller of groups that are ready and hold 0, 10, 20, ... tokens, seen at 5 ns."""
    ledger = Ledger(
        slot=0, epoch=EPOCH, num_front_doors=2, num_groups=num_groups, note=lambda rank, cell: None
    )
    controller = Controller(
        make_policy(method, random.Random(seed), CostFit()),
        ledger,
        num_groups,
        random.Random(seed),
        MAX_LOAD_AGE_NS,
        PrefixIndex(num_groups) if method in PREFIX_METHODS else None,
        slow_start=slow_start,
        keeps_decisions=keeps_decisions,
    )
    for rank in range(num_groups):
        controller.observe_group(group(rank))
    reports = [holding(rank, 10 * rank, 1, sampled_ns=2) for rank in range(num_groups)]
    observe(controller, *reports, now_ns=5)
    return controller


def decided(controller, shape=None, excluded=()):
    return controller.assign(shape or RequestShape(100), excluded).decision


def left_out(decision):
    return dict(decision.left_out.named)


@pytest.mark.parametrize("method", METHODS)
def test_to_take_decisions_down_changes_none(method):
    """
    The same requests go to the same groups, under the same ids, with and without.
    """

    def chosen(*, keeps_decisions):
        controller, rng = made(method, 12, keeps_decisions=keeps_decisions), random.Random(5)
        found = []
        for _ in range(200):
            key = rng.choice([None, rng.getrandbits(8)])
            shape = RequestShape(rng.randint(17, 900), session_key=key)
            if key is None and method in PREFIX_METHODS:
                shape = shape._replace(page_digests=DIGESTS[: rng.randint(1, 9)], page_size=16)
            assignment = controller.assign(shape)
            found.append((assignment.dp_rank, assignment.dp_balance_id))
            if rng.random() < 0.7:
                controller.release(assignment, End.COMPLETED)
        return found

    assert chosen(keeps_decisions=True) == chosen(keeps_decisions=False)


def test_who_does_not_ask_gets_none():
    """
    The simulator's controllers take nothing down.
    """
    assert decided(made("auto", 2, keeps_decisions=False)) is None


def test_a_decision_has_what_each_candidate_was_weighed_with():
    """
    As it was before the request was charged, with the age that its report had.
    """
    controller = made("minimum_tokens", 3)
    controller.assign(RequestShape(7))

    decision = decided(controller)

    assert (decision.dp_rank, decision.why) == (0, Why.FEWEST_TOKENS)
    assert [each.cost for each in decision.candidates] == [7, 10, 20]
    assert [each.load.in_flight_tokens for each in decision.candidates] == [7, 0, 0]
    assert {each.source for each in decision.candidates} == {Source.REPORT}
    assert {each.sampled_ns for each in decision.candidates} == {2}
    assert controller.loads()[0].in_flight_tokens == 107


def test_figures_that_are_too_old_are_told_as_books():
    """
    With the age of the report that does not count, and nothing that it says.
    """
    controller = made("minimum_tokens", 2)
    controller.observe_time(2 + MAX_LOAD_AGE_NS + 1)

    first, _ = decided(controller).candidates

    assert (first.source, first.sampled_ns, first.waiting_requests) == (Source.BOOKS, 2, None)


def test_of_many_groups_the_best_and_the_longest_match_are_kept():
    """
    The one taken first, and no more than the bound; how many there were is told.
    """
    controller = made("auto", 300)
    controller.observe_prefix(299, GROUP_EPOCH, PrefixEvent(Change.STORED, DIGESTS))
    for _ in range(40):  # so that group 299 costs too much
        controller.assign(RequestShape(5000, dp_rank=299))

    decision = decided(controller, RequestShape(200, page_digests=DIGESTS, page_size=16))
    kept = [each.load.dp_rank for each in decision.candidates]

    assert decision.num_candidates == 300
    assert len(kept) == MAX_CANDIDATES
    assert decision.dp_rank in kept
    assert decision.chosen.cost == min(each.cost for each in decision.candidates)
    assert 299 in kept
    assert decision.why is Why.LEAST_STEP_COST


@pytest.mark.parametrize("num_groups", [2, 1024])
def test_an_entry_has_the_same_bound_with_any_number_of_groups(num_groups):
    """
    All groups differ and one is shut, which is the most there is to tell: under 5 KB.
    """
    controller = made("auto", num_groups)
    controller.observe_group(group(0, GroupState.DRAINING))

    assert _bytes_of(decided(controller), set()) < 5_000


def _bytes_of(found, seen):
    """Of it and all that only it may hold."""
    if id(found) in seen or isinstance(found, type | Why | Source):
        return 0
    seen.add(id(found))
    inner = found if isinstance(found, tuple | list) else ()
    return sys.getsizeof(found) + sum(_bytes_of(each, seen) for each in inner)


def test_groups_that_are_no_candidates_are_told_with_the_reason():
    """
    By their state, because they are full, and because of what the request has been through.
    """
    controller = made("minimum_tokens", 3)
    for rank, state in ((0, GroupState.DEAD), (1, GroupState.DRAINING), (2, GroupState.READY)):
        controller.observe_group(group(rank, state))
    assert left_out(decided(controller)) == {0: "dead", 1: "draining"}

    controller = made("minimum_tokens", 4)
    observe(controller, holding(3, 0, 100, sampled_ns=4), now_ns=5)
    decision = decided(controller, excluded=because([1], Exclusion.TRIED))

    assert left_out(decision) == {1: "tried", 3: "full"}
    assert dict(decision.left_out.counts) == {"tried": 1, "full": 1}
    assert left_out(decided(controller, excluded=[1])) == {1: "excluded", 3: "full"}


def test_of_many_groups_that_are_no_candidates_some_are_named_and_all_counted():
    """
    A rolling restart of hundreds makes no entry larger.
    """
    controller = made("minimum_tokens", 100)
    for rank in range(90):
        controller.observe_group(group(rank, GroupState.DEAD))

    decision = decided(controller)

    assert len(decision.left_out.named) == MAX_NAMED
    assert dict(decision.left_out.counts) == {"dead": 90}


def test_a_group_that_comes_back_is_left_out_no_more():
    """
    What the table says is worked out anew when it has changed, though as many are ready.
    """
    controller = made("minimum_tokens", 2)
    controller.observe_group(group(1, GroupState.DRAINING))
    assert left_out(decided(controller)) == {1: "draining"}

    controller.observe_group(group(1))
    controller.observe_group(group(0, GroupState.DRAINING))
    assert left_out(decided(controller)) == {0: "draining"}

    controller.observe_group(group(0))
    assert left_out(decided(controller)) == {}


def test_a_group_that_was_asked_for_was_not_chosen_by_the_method():
    """
    Nor is one that alone could take it.
    """
    controller = made("minimum_tokens", 3)
    asked = decided(controller, RequestShape(9, dp_rank=2))
    assert (asked.dp_rank, asked.why) == (2, Why.ASKED_FOR)
    assert dict(asked.left_out.counts) == {"not_asked_for": 2}

    assert decided(controller, excluded=(0, 1)).why is Why.ONLY_CANDIDATE


def test_suspects_and_open_breakers_are_told_of_where_there_is_nobody_else():
    """
    And where there is somebody else, that one is left out for its breaker.
    """
    controller = made("minimum_tokens", 2)
    around = assign_around(controller, RequestShape(1), {}, {0})
    assert left_out(around.assignment.decision) == {0: "breaker_open"}
    assert not around.assignment.decision.is_last_resort

    past = assign_around(controller, RequestShape(1), because([1], Exclusion.TRIED), {0})
    assert past.assignment.decision.is_last_resort
    assert left_out(past.assignment.decision) == {1: "tried"}

    for rank in range(2):
        controller.observe_group(group(rank, GroupState.SUSPECT))
    assert decided(controller).are_suspect


def test_a_suspect_that_was_taken_is_not_told_to_be_left_out():
    """
    Nor are the ready ones passed over in silence, where as many suspects as they could take it.
    """
    controller = made("minimum_tokens", 2)
    controller.observe_group(group(1, GroupState.SUSPECT))

    decision = decided(controller, excluded=because([0], Exclusion.TRIED))

    assert (decision.dp_rank, decision.are_suspect) == (1, True)
    assert left_out(decision) == {0: "tried"}


def test_who_is_dead_and_was_tried_is_left_out_because_it_is_dead():
    """
    What the table says of a group that could not take it counts first.
    """
    controller = made("minimum_tokens", 4)
    for rank, state in ((0, GroupState.DEAD), (1, GroupState.SUSPECT)):
        controller.observe_group(group(rank, state))

    decision = decided(controller, excluded=because([0, 1, 2], Exclusion.TRIED))

    assert left_out(decision) == {0: "dead", 1: "tried", 2: "tried"}


def test_the_factor_of_a_newcomer_stands_beside_what_it_holds():
    """
    What was compared has the factor in it, and what it holds has not.
    """
    controller = made("minimum_tokens", 2, slow_start=SlowStart(1_000))
    for rank, since_ns in ((0, 1), (1, 800)):
        entry = GroupEntry(rank, GroupState.READY, GROUP_EPOCH, ready_since_ns=since_ns)
        controller.observe_group(entry)
    controller.observe_time(1_001)
    controller.assign(RequestShape(30, dp_rank=1))

    newcomer = next(each for each in decided(controller).candidates if each.load.dp_rank == 1)

    assert newcomer.factor > 1
    assert newcomer.load.tokens == 40
    assert newcomer.cost == pytest.approx(40 * newcomer.factor, abs=1)


@pytest.mark.parametrize("method", METHODS)
def test_a_decision_travels_as_json(method):
    """
    As lists, and is the same afterwards.
    """
    controller = made(method, 3)
    controller.observe_group(group(2, GroupState.DRAINING))
    decision = decided(controller, RequestShape(50, page_digests=DIGESTS[:2], page_size=16))

    assert Decision.from_wire(orjson.loads(orjson.dumps(decision, default=list))) == decision
