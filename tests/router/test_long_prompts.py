"""Long prompts: counted beside the event loop, which goes on meanwhile."""

import pytest

from tests.router.clients import post
from tests.router.fakes import HeldExecutor, turns, until, write_tokenizer
from tests.router.groups import charge_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def held(house, group, tmp_path):
    """A door whose long prompts are counted when the test says so, and a client of it."""
    executor = HeldExecutor()
    house.present(group, tokenizer_dir=write_tokenizer(tmp_path))
    async with house.door(executor=executor) as door, door.client() as client:
        client.send(post())
        (await group.next_request()).answer()
        await client.response()
        yield door, client, executor


LONG = b'{"messages":[{"content":"%s"}]}' % (b"word " * 5000)


async def test_a_long_prompt_is_counted_beside_the_event_loop(held, group):
    """
    Short requests of others are not kept waiting by it.
    """
    door, client, executor = held
    client.send(post(LONG))
    await until(lambda: executor.held)
    async with door.client() as other:
        other.send(post())
        (await group.next_request()).answer()
        assert (await other.response()).status == 200

    executor.run_all()

    received = await group.next_request()
    assert charge_of(received) == 5001
    received.answer()
    assert (await client.response()).status == 200
    assert door.meters.prompt_tokens["exact"] == 5001 + 2 * 7


async def test_a_client_that_leaves_while_its_prompt_is_counted_is_not_dispatched(held, group):
    """
    There is nothing to release, and nothing is sent.
    """
    door, client, executor = held
    client.send(post(LONG))
    await until(lambda: executor.held)

    client.leave()

    await until(lambda: door.meters.open_requests == 0)
    executor.run_all()
    await turns()
    await door.all_released()
    assert (len(group.received), door.meters.disconnects) == (1, 1)


async def test_stop_waits_for_a_prompt_that_is_being_counted(held, group):
    """
    The request was read, so it is answered.
    """
    door, client, executor = held
    client.send(post(LONG))
    await until(lambda: executor.held)
    door.door.stop()
    await turns()
    executor.run_all()
    (await group.next_request()).answer(b"done")

    assert (await client.response()).body == b"done"
