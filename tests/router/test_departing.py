"""What a front door takes off a group's report when a request ends, by how it ended."""

import pytest

from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup, charge_of
from tests.router.house import House

pytestmark = pytest.mark.anyio


async def accepted(house, door, received):
    """The group reports that it holds the request, 100 tokens; the front door reads that."""
    slot_and_epoch = received.header(b"x-levelhead-front-door")[0]
    charge = (int(slot_and_epoch.split(b"/")[1]), charge_of(received), 1)
    house.report(accepted=(charge,), holding_tokens=100, running_requests=1)
    door.door.dispatcher.refresh()
    door.controller.observe_time(house.clock.ns())
    assert held(door) == 1


def held(door):
    """Requests that the group seems to hold."""
    return door.controller.loads()[0].held_requests


async def test_what_was_answered_to_the_end_is_taken_off(house, group, door, client):
    """
    The report holds it for a while yet.
    """
    client.send(post())
    received = await group.next_request()
    await accepted(house, door, received)

    received.answer()
    await client.response()

    await until(lambda: held(door) == 0)


async def test_what_a_client_left_is_held_until_the_group_says_otherwise(
    house, group, door, client
):
    """
    The group hears of it after others that may come first.
    """
    client.send(post())
    received = await group.next_request()
    received.write(SSE_HEAD + chunk(b"data: {}\n\n"))
    await client.head()
    await accepted(house, door, received)

    client.leave()

    await until(lambda: received.connection_is_lost)
    await door.all_released()
    assert held(door) == 1


async def test_what_a_group_refused_was_never_held(house, group, door, client):
    """
    What the report holds is somebody else's.
    """
    client.send(post())
    received = await group.next_request()
    await accepted(house, door, received)

    received.answer(status=b"400 Bad Request")
    await client.response()

    await door.all_released()
    assert held(door) == 1


async def test_several_choices_are_left_to_the_report(house, group, door, client):
    """
    Some may have left before the answer's end.
    """
    client.send(post(b'{"messages": [{"role": "user", "content": "hi"}], "n": 2}'))
    received = await group.next_request()
    await accepted(house, door, received)

    received.answer()
    await client.response()

    await door.all_released()
    assert held(door) == 1


async def test_the_controller_hears_from_the_fit_whether_groups_wait():
    """
    It is the policy's own: with steps that are alike, what a step is computing weighs nothing.
    """
    async with House.built(method="min_step_cost") as house, FakeGroup.listening() as group:
        house.present(group)
        async with house.door() as door:
            computing = {"waiting_uncached_tokens": 60, "computing_tokens": 50}
            for number in range(1, 50):
                house.clock.now_s += 1e-3
                house.report(**computing, step_time_ns=9, num_steps=number)
                door.door.dispatcher.refresh()
            door.controller.observe_time(house.clock.ns())

            assert door.controller.loads()[0].uncached_tokens == 10
