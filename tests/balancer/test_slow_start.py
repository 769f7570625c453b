"""Newcomers: what their load weighs while they grow into their share."""

import heapq
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.assignment import End
from balancer.controller import Controller
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.methods import METHODS, make_policy
from balancer.slow_start import FIRST_SHARE, NUM_STEPS, SlowStart
from shm.group_table import GroupState
from tests.balancer.loads import group

READY, SUSPECT, DEAD = GroupState.READY, GroupState.SUSPECT, GroupState.DEAD
RAMP_NS = 10_000
LONG_AGO_NS = 1_000_000


@pytest.fixture(name="ramp")
def _ramp():
    """Two groups that have served for long, and a third that begins."""
    ramp = SlowStart(RAMP_NS)
    ramp.observe_group(0, READY, 1)
    ramp.observe_group(1, READY, 2)
    ramp.observe_group(2, READY, LONG_AGO_NS)
    ramp.observe_time(LONG_AGO_NS)
    return ramp


def factors(ramp, num_groups=3):
    return [ramp.factor(dp_rank) for dp_rank in range(num_groups)]


def test_a_newcomer_weighs_ten_times_what_it_holds_and_less_with_each_tenth_of_the_ramp(ramp):
    """
    Until it weighs what it holds, and nobody is looked at any more.
    """
    found = []
    for number in range(NUM_STEPS + 1):
        ramp.observe_time(LONG_AGO_NS + number * RAMP_NS // NUM_STEPS)
        assert factors(ramp)[:2] == [1.0, 1.0]
        found.append(ramp.factor(2))

    assert found[0] == pytest.approx(1 / FIRST_SHARE)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == NUM_STEPS + 1
    assert found[-1] == 1.0


def test_what_a_policy_sees_is_multiplied_and_nothing_else(ramp):
    """
    All figures of the newcomer; the others' loads are the same objects.
    """
    loads = [GroupLoad(0, 9, 9, 9, 9, 9), GroupLoad(2, 1, 2, 3, 4, 5)]

    seen = ramp.weighed(loads)

    assert seen == [loads[0], GroupLoad(2, 10, 20, 30, 40, 50)]
    assert seen[0] is loads[0]


def test_groups_that_start_together_see_no_change():
    """
    Within a tenth of the ramp, at any time.
    """
    ramp = SlowStart(RAMP_NS)
    for dp_rank, since_ns in enumerate((500, 900, 1_499)):
        ramp.observe_group(dp_rank, READY, since_ns)
    loads = [GroupLoad(rank, 7, 7, 7, 7) for rank in range(3)]

    for now_ns in range(500, 2 * RAMP_NS, 50):
        ramp.observe_time(now_ns)
        assert ramp.weighed(loads) is loads


def test_groups_that_were_ready_before_anybody_could_choose_start_together():
    """
    However far apart; whoever comes after that is a newcomer.
    """
    begun_ns = 5 * RAMP_NS
    ramp = SlowStart(RAMP_NS, begun_ns)
    for dp_rank, since_ns in enumerate((1, begun_ns - RAMP_NS // 2, begun_ns)):
        ramp.observe_group(dp_rank, READY, since_ns)
    ramp.observe_time(begun_ns)
    assert factors(ramp) == [1.0] * 3

    ramp.observe_group(3, READY, begun_ns + RAMP_NS)
    ramp.observe_time(begun_ns + RAMP_NS)

    assert factors(ramp, 4) == [1.0, 1.0, 1.0, pytest.approx(10)]


def test_a_group_that_was_suspect_goes_on_where_it_was(ramp):
    """
    One that was dead begins anew, with the time that the table tells then.
    """
    late_ns = LONG_AGO_NS + 3 * RAMP_NS
    for state in (SUSPECT, READY):
        ramp.observe_group(0, state, 1)
    ramp.observe_time(late_ns)
    assert factors(ramp) == [1.0] * 3

    ramp.observe_group(0, DEAD, 1)
    ramp.observe_time(late_ns)
    ramp.observe_group(0, READY, late_ns)
    ramp.observe_time(late_ns)

    assert factors(ramp) == [pytest.approx(10), 1.0, 1.0]


def test_who_is_left_alone_is_no_newcomer(ramp):
    """
    There is nobody to be compared with.
    """
    for dp_rank in (0, 1):
        ramp.observe_group(dp_rank, DEAD, 1)
    ramp.observe_time(LONG_AGO_NS)

    assert factors(ramp) == [1.0] * 3


def test_without_a_ramp_nobody_is_slowed():
    """
    --slow-start-s 0.
    """
    ramp = SlowStart(0)
    ramp.observe_group(0, READY, 1)
    ramp.observe_group(1, READY, LONG_AGO_NS)
    ramp.observe_time(LONG_AGO_NS)

    assert factors(ramp, 2) == [1.0, 1.0]


@given(st.lists(st.integers(0, 3 * RAMP_NS), min_size=1, max_size=5), st.data())
def test_factors_are_those_of_ages_however_often_one_looks(since, data):
    """
    Looking at every instant or only at the last one makes no difference; all lie in 1 to 10,
    and whoever has served longer never weighs more.
    """
    looked, not_looked = SlowStart(RAMP_NS), SlowStart(RAMP_NS)
    for ramp in (looked, not_looked):
        for dp_rank, since_ns in enumerate(since):
            ramp.observe_group(dp_rank, READY, since_ns)
    now_ns = max(since)
    for step_ns in data.draw(st.lists(st.integers(0, RAMP_NS), max_size=8)):
        now_ns += step_ns
        looked.observe_time(now_ns)
    looked.observe_time(now_ns)
    not_looked.observe_time(now_ns)

    found = factors(looked, len(since))

    assert found == factors(not_looked, len(since))
    assert all(1.0 <= each <= 1 / FIRST_SHARE + 1e-9 for each in found)
    in_order = [each for _, each in sorted(zip(since, found, strict=True))]
    assert in_order == sorted(in_order)


def _shares(method, ramp_ns, part_ns=1_000, num_parts=12):
    """
    A replay: the newcomer's share of what is sent, in parts of the time after it came.

    A request comes every 5 ns and stays for 500 ns; the third group joins two at time 0.
    """
    ledger = Ledger(slot=0, epoch=1, num_front_doors=1, num_groups=3, note=lambda *_: None)
    policy, ids = make_policy(method, random.Random(1)), random.Random(2)
    controller = Controller(policy, ledger, 3, ids, 1 << 40, slow_start=SlowStart(ramp_ns))
    rows = [replace(group(rank), engine="vllm", ready_since_ns=1) for rank in range(3)]
    for row in rows[:2]:
        controller.observe_group(row)
    sent, open_now = [[0, 0] for _ in range(num_parts)], []
    begin_ns = LONG_AGO_NS
    for now_ns in range(begin_ns - 1_000, begin_ns + num_parts * part_ns, 5):
        if now_ns == begin_ns:
            controller.observe_group(replace(rows[2], ready_since_ns=begin_ns))
        while open_now and open_now[0][0] <= now_ns:
            controller.release(heapq.heappop(open_now)[2], End.UNCOUNTED)
        controller.observe_time(now_ns)
        assignment = controller.assign(RequestShape(100))
        heapq.heappush(open_now, (now_ns + 500, now_ns, assignment))
        if now_ns >= begin_ns:
            part = sent[(now_ns - begin_ns) // part_ns]
            part[0] += 1
            part[1] += assignment.dp_rank == 2
    controller.check_integrity()
    return [mine / everything for everything, mine in sent]


WEIGHING = ("minimum_tokens", "min_step_cost", "slack_affinity", "session", "least_requests",
            "auto", "power_of_two")  # fmt: skip


@pytest.mark.parametrize("method", WEIGHING)
def test_the_share_of_a_newcomer_grows_over_the_ramp(method):
    """
    From some twentieth to a third, with every method that weighs.
    """
    shares = _shares(method, RAMP_NS)

    assert shares[0] < 0.1
    assert all(later > earlier - 0.03 for earlier, later in pairwise(shares))
    assert 0.15 < shares[4] < 0.3
    assert shares[-1] == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("method", ["minimum_tokens", "least_requests"])
def test_without_a_ramp_a_newcomer_gets_all_requests_until_it_is_level(method):
    """
    What slow start is for.
    """
    assert _shares(method, 0, part_ns=100)[0] == 1.0
    assert _shares(method, RAMP_NS, part_ns=100)[0] < 0.3


@pytest.mark.parametrize("method", ["round_robin", "random"])
def test_a_method_that_looks_at_no_load_slows_nobody(method):
    """
    A third from the first request on.
    """
    assert _shares(method, RAMP_NS)[0] == pytest.approx(1 / 3, abs=0.08)


def test_every_method_is_known_to_weigh_or_not():
    """
    total_tokens and vllm_score look at reports alone, and are refused with backends.
    """
    assert {*WEIGHING, "round_robin", "random", "total_tokens", "vllm_score"} == set(METHODS)
