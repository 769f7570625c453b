"""Requests that wait in the front door until a group has room, or until there is one for each."""

from contextlib import AsyncExitStack, asynccontextmanager

import orjson
import pytest

from shm.group_table import GroupEntry, GroupState
from tests.router.clients import post
from tests.router.fakes import turns, until
from tests.router.groups import charge_of
from tests.router.house import load_report
from tests.router.site import Site

pytestmark = pytest.mark.anyio
FULL, FREE = 100, 0  # requests in a group that takes 100


class Queue:
    """A site whose groups have room when the test says so, and a client for each request."""

    def __init__(self, site, stack):
        self.site = site
        self._stack = stack

    @classmethod
    @asynccontextmanager
    async def opened(cls, num_groups=1, admission="late", **settings):
        async with AsyncExitStack() as stack:
            opening = Site.opened(num_groups, admission=admission, **settings)
            queue = cls(await stack.enter_async_context(opening), stack)
            queue.report(running_requests=FULL)
            yield queue

    def report(self, **fields):
        """All groups say this of themselves, and have taken over what was sent to them."""
        house, reports = self.site.house, []
        for rank, group in enumerate(self.site.groups):
            sent = [charge_of(received) for received in group.received]
            accepted = ((self.site.door.cell(rank).front_door_epoch, sum(sent), len(sent)),)
            now_ns = house.clock.ns()
            reports.append(load_report(rank, accepted=accepted, sampled_ns=now_ns, **fields))
        house.loads.publish(reports, 1)

    @property
    def num_waiting(self):
        return self.site.door.meters.waiting_requests

    async def ask(self, name, extra=b"", **fields):
        """A client of its own asks, and waits."""
        client = await self._stack.enter_async_context(self.site.door.client())
        body = {"messages": [{"role": "user", "content": name}], **fields}
        client.send(post(body=orjson.dumps(body), extra=extra))
        return client

    async def ask_in_turn(self, *names):
        clients = []
        for number, name in enumerate(names, 1):
            clients.append(await self.ask(name))
            await until(lambda n=number: self.num_waiting == n)
        return clients


def names(group):
    return [orjson.loads(each.body)["messages"][0]["content"] for each in group.received]


async def test_a_request_waits_while_every_group_is_full_and_goes_when_one_reports_room():
    """
    Nothing is charged before, and nobody but the report wakes it.
    """
    async with Queue.opened() as queue:
        group, door = queue.site.groups[0], queue.site.door
        (client,) = await queue.ask_in_turn("a")
        await turns()
        assert (group.received, door.num_assigned) == ([], 0)

        queue.report(running_requests=FREE)
        received = await group.next_request()
        received.answer()

        assert (await client.response()).status == 200
        assert queue.num_waiting == 0
        assert sum(door.meters.waited_s.counts) == 1
        await door.all_released()


async def test_a_request_waits_for_kv_too():
    """
    4096 tokens of which 4000 are held: there is a seat, and no room for 200 more.
    """
    async with Queue.opened() as queue:
        queue.report(running_requests=1, holding_tokens=4000)
        client = await queue.ask("word " * 200)
        await until(lambda: queue.num_waiting == 1)

        queue.report(running_requests=1, holding_tokens=1000)
        (await queue.site.groups[0].next_request()).answer()

        assert (await client.response()).status == 200


async def test_requests_go_in_the_order_in_which_they_came():
    """
    One seat becomes free at a time.
    """
    async with Queue.opened() as queue:
        await queue.ask_in_turn("a", "b", "c")
        group = queue.site.groups[0]
        for number in (1, 2, 3):
            queue.report(running_requests=FULL - 1)
            await until(lambda n=number: len(group.received) == n)
            queue.report(running_requests=FULL)

        assert names(group) == ["a", "b", "c"]
        for received in group.received:
            received.answer()


async def test_priority_and_keys_are_honoured():
    """
    The urgent one first; then keys take turns, though one has asked for more.
    """
    async with Queue.opened() as queue:
        for number, (name, key) in enumerate((("a", 1), ("b", 1), ("c", 1), ("d", 2))):
            await queue.ask(name, extra=b"Authorization: Bearer %d\r\n" % key)
            await until(lambda n=number: queue.num_waiting == n + 1)
        await queue.ask("urgent", priority=1)
        await until(lambda: queue.num_waiting == 5)

        queue.report(running_requests=FREE)
        group = queue.site.groups[0]
        await until(lambda: len(group.received) == 5)

        assert sorted(names(group)[1:3]) == ["a", "d"]
        assert names(group)[0] == "urgent"
        for received in group.received:
            received.answer()


async def test_a_request_goes_when_another_group_is_back():
    """
    The table tells, and the group has not reported yet: then it has room.
    """
    async with Queue.opened(2) as queue:
        site = queue.site
        site.present(GroupEntry(1, GroupState.DEAD, 11, "127.0.0.1", site.groups[1].port))
        await queue.ask_in_turn("a")

        back = ("127.0.0.1", site.groups[1].port, "m", 2048)
        site.present(GroupEntry(1, GroupState.READY, 12, *back))

        (await site.groups[1].next_request()).answer()


async def test_a_client_that_leaves_while_it_waits_is_gone_at_once_and_was_charged_nothing():
    """
    The one behind it goes in its place.
    """
    async with Queue.opened() as queue:
        door, group = queue.site.door, queue.site.groups[0]
        first, _ = await queue.ask_in_turn("a", "b")
        first.leave()
        await until(lambda: queue.num_waiting == 1)
        assert door.meters.disconnects == 1

        queue.report(running_requests=FULL - 1)
        (await group.next_request()).answer()

        assert names(group) == ["b"]
        assert door.cell().dispatched_requests == 1


async def test_a_client_that_leaves_between_its_placing_and_its_turn_gets_its_charge_taken_back():
    """
    Placed in one turn of the loop, gone before the next.
    """
    async with Queue.opened() as queue:
        door, (client,) = queue.site.door, await queue.ask_in_turn("a")
        (waiter,) = door.door._lobby._room._in_line
        queue.report(running_requests=FREE)
        door.door._lobby._look()
        assert door.num_assigned == 1
        waiter.owner.client_lost()

        await door.all_released()
        assert door.cell().returned_requests == 1
        assert queue.site.groups[0].received == []
        client.leave()


async def test_more_than_may_wait_are_refused_with_503_and_a_time():
    """
    Those that wait stay.
    """
    async with Queue.opened(max_waiting_requests=2) as queue:
        await queue.ask_in_turn("a", "b")
        client = await queue.ask("c")

        response = await client.response()

        assert (response.status, response.error["code"]) == (503, "waiting_room_full")
        assert response.header(b"retry-after") == b"1"
        assert (queue.num_waiting, queue.site.door.meters.waiting_overflows) == (2, 1)


async def test_where_nobody_may_wait_requests_go_if_there_is_room():
    """
    And are refused if there is none.
    """
    async with Queue.opened(max_waiting_requests=0) as queue:
        refused = await (await queue.ask("a")).response()
        queue.report(running_requests=FREE)
        client = await queue.ask("b")
        (await queue.site.groups[0].next_request()).answer()

        assert (refused.status, (await client.response()).status) == (503, 200)


async def test_nobody_waits_for_groups_that_do_not_serve():
    """
    Neither who comes, nor who waits already.
    """
    async with Queue.opened() as queue:
        (waiting,) = await queue.ask_in_turn("a")
        queue.site.present(GroupEntry(0, GroupState.DEAD, 11))

        assert (await waiting.response()).error["code"] == "no_dp_group"
        assert (await (await queue.ask("b")).response()).status == 503


async def test_whoever_waits_is_told_when_the_front_door_stops():
    """
    503, and the connection is closed; what runs is finished.
    """
    async with Queue.opened() as queue:
        queue.report(running_requests=FULL - 1)
        runs = await queue.ask("runs")
        received = await queue.site.groups[0].next_request()
        queue.report(running_requests=FULL)
        (waits,) = await queue.ask_in_turn("waits")

        queue.site.door.door.stop()
        response = await waits.response()
        received.answer()

        assert (response.status, response.header(b"connection")) == (503, b"close")
        assert response.header(b"retry-after") == b"1"
        assert (await runs.response()).status == 200


async def test_a_request_that_comes_while_the_front_door_stops_does_not_wait():
    """
    One that was still being read, for example.
    """
    async with Queue.opened() as queue:
        queue.site.door.door._lobby.close()

        response = await (await queue.ask("late")).response()

        assert (response.status, queue.num_waiting) == (503, 0)


async def test_a_refused_request_is_retried_at_once_though_it_could_wait():
    """
    As without a lobby.
    """
    async with Queue.opened(2) as queue:
        queue.report(running_requests=FREE)
        client = await queue.ask("a")
        await until(lambda: sum(queue.site.num_received) == 1)
        first = next(group for group in queue.site.groups if group.received)
        other = next(group for group in queue.site.groups if not group.received)
        first.received[0].answer(status=b"503 Service Unavailable")

        (await other.next_request()).answer()

        assert (await client.response()).status == 200


# Holding


async def test_held_prompts_go_together_when_there_is_one_for_each_group():
    """
    The first alone stays, because something runs; the longest goes first.
    """
    settings = {"admission": "immediate", "prefill_align": "hold", "max_hold_ms": 60_000}
    async with Queue.opened(2, **settings) as queue:
        queue.report(running_requests=1)
        await queue.ask_in_turn("short")
        await turns()
        assert queue.site.num_received == [0, 0]

        await queue.ask("very " * 50)

        await until(lambda: queue.site.num_received == [1, 1])
        for group in queue.site.groups:
            group.received[0].answer()


async def test_a_held_prompt_goes_when_its_time_is_over_or_nothing_runs():
    """
    By the clock of the groups' samples, which this test owns.
    """
    settings = {"admission": "immediate", "prefill_align": "hold", "max_hold_ms": 500}
    async with Queue.opened(2, **settings) as queue:
        site = queue.site
        queue.report(running_requests=1)
        await queue.ask_in_turn("a")
        site.house.clock.now_s += 0.499
        await turns()
        assert site.num_received == [0, 0]
        site.house.clock.now_s += 0.001
        await until(lambda: sum(site.num_received) == 1)

        await queue.ask_in_turn("b")
        queue.report(running_requests=0)
        await until(lambda: sum(site.num_received) == 2)
        for group in site.groups:
            for received in group.received:
                received.answer()


async def test_without_late_admission_a_full_group_means_503_at_once():
    """
    The default: nobody waits, and there is no lobby.
    """
    async with Queue.opened(admission="immediate") as queue:
        response = await (await queue.ask("a")).response()

        assert (response.status, response.error["code"]) == (503, "no_dp_group")
        assert queue.site.door.door._lobby is None
