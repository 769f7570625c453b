"""Which groups have room for a request that may wait."""

import pytest

from balancer.load import RequestShape
from balancer.room import all_idle, groups_without_room, may_have_room
from shm.group_table import GroupState
from tests.balancer.loads import NUM_GROUPS, group, holding, observe

CAPACITY, RESERVE = 2560, 10


def say(controller, *held, requests=1, **figures):
    """Groups 0, 1, ... hold so many of 2560 tokens."""
    figures = {"kv_capacity_tokens": CAPACITY} | figures
    observe(controller, *(holding(r, each, requests, **figures) for r, each in enumerate(held)))


def test_a_group_has_room_as_long_as_the_prompt_and_the_reserve_fit(controller):
    """
    To the token: 100 of prompt beside 2450, and a 256th of 2560 kept free.
    """
    most = CAPACITY - RESERVE - 100
    say(controller, most - 1, most, most + 1)

    assert groups_without_room(controller, 100) == [2]


def test_what_is_on_its_way_takes_room_too(controller):
    """
    Before the group has reported it.
    """
    say(controller, 2000, 2100, 2200)
    assert groups_without_room(controller, 400) == [2]
    controller.assign(RequestShape(300))

    assert groups_without_room(controller, 400) == [0, 2]


def test_a_group_without_a_seat_has_no_room(controller):
    """
    Whatever it has in KV.
    """
    say(controller, 0, 0, 0, requests=5, max_requests=5)

    assert groups_without_room(controller, 1) == [0, 1, 2]


def test_a_group_that_has_said_nothing_has_room(controller):
    """
    Its capacity is not known.
    """
    assert groups_without_room(controller, 1_000_000) == []


def test_an_empty_group_has_room_for_whatever_fits_without_the_reserve(controller):
    """
    Else it would wait for ever.
    """
    say(controller, 0, 0, 1)
    observe(controller, holding(1, 0, 0, kv_capacity_tokens=CAPACITY))

    assert groups_without_room(controller, CAPACITY) == [0, 2]


def test_what_is_over_the_capacity_waits_for_no_room(controller):
    """
    A group refuses it, and that should be told at once.
    """
    say(controller, 2500, 2500, 2500)

    assert groups_without_room(controller, CAPACITY + 1) == []


def test_a_suspect_group_has_no_room_while_another_is_ready(controller):
    """
    With nobody ready it has.
    """
    for state in (GroupState.SUSPECT, GroupState.DEAD):
        controller.observe_group(group(0, GroupState.SUSPECT))
        controller.observe_group(group(1, state))
    assert groups_without_room(controller, 1) == [0]
    controller.observe_group(group(2, GroupState.DRAINING))

    assert groups_without_room(controller, 1) == []


@pytest.mark.parametrize("state", GroupState)
def test_only_groups_that_serve_may_have_room_one_day(controller, state):
    """
    The one that was asked for, or any.
    """
    serves = state in (GroupState.READY, GroupState.SUSPECT)
    for rank in range(NUM_GROUPS):
        controller.observe_group(group(rank, state))
    assert may_have_room(controller, None) is may_have_room(controller, 1) is serves
    controller.observe_group(group(0, GroupState.READY))

    assert may_have_room(controller, None)
    assert may_have_room(controller, 1) is serves


def test_all_are_idle_if_nobody_has_a_request_or_gets_one(controller):
    """
    Those of a dead group, which its clients have not heard of, do not count.
    """
    assert all_idle(controller)
    observe(controller, holding(0, 5, 1), holding(1, 0), holding(2, 5, 1))
    assert not all_idle(controller)
    observe(controller, holding(0, 0), holding(1, 0), holding(2, 0))
    rank = controller.assign(RequestShape(1)).dp_rank
    assert not all_idle(controller)
    controller.observe_group(group(rank, GroupState.DEAD))

    assert all_idle(controller)
