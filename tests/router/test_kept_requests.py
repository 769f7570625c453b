"""Requests that are kept while the groups that could answer them start again."""

from contextlib import asynccontextmanager

import pytest

from balancer.in_flight import InFlight
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import SSE_HEAD, chunk, post
from tests.router.fakes import turns, until
from tests.router.groups import FakeGroup, charge_of, refusing_port
from tests.router.house import load_report
from tests.router.site import Site

pytestmark = pytest.mark.anyio
FIRST, NEXT = 11, 12  # epochs
WAIT_S, TOLD_S = 60.0, 0.6


class Outage:
    """A site whose groups the test ends and begins anew."""

    def __init__(self, site):
        self.site, self.house, self.door, self.client = site, site.house, site.door, site.client

    @classmethod
    @asynccontextmanager
    async def opened(cls, num_groups=1, **settings):
        settings = {"max_restart_wait_s": WAIT_S} | settings
        async with Site.opened(num_groups, **settings) as site:
            yield cls(site)

    def begin(self, state=GroupState.DEAD):
        """No group serves."""
        self.site.present(*(GroupEntry(r, state, FIRST) for r in range(len(self.site.groups))))

    def end(self, *groups, epoch=NEXT):
        """These serve, in their next lives."""
        self.house.present(*(groups or self.site.groups), epoch=epoch)

    def pass_time(self, seconds):
        self.house.clock.now_s += seconds

    @property
    def num_waiting(self):
        return self.door.meters.waiting_requests

    async def waits(self, number=1):
        await until(lambda: self.num_waiting == number)

    async def lost(self):
        """A request that was sent to its group and lost with it, and now waits."""
        self.client.send(post())
        received = await self.site.groups[0].next_request()
        received.abort()
        await self.waits()
        return received

    def in_flight(self, dp_rank=0):
        return self.door.controller.ledger.in_flight(dp_rank)


@pytest.mark.parametrize("state", ["starting", "dead", "draining"])
async def test_a_request_that_comes_while_no_group_serves_goes_when_one_does(state):
    """
    Nothing is charged before.
    """
    async with Outage.opened() as outage:
        outage.begin(GroupState(state))
        outage.client.send(post())
        await outage.waits()
        await turns()
        assert outage.door.num_assigned == 0

        outage.end()
        (await outage.site.groups[0].next_request()).answer()

        assert (await outage.client.response()).status == 200
        assert outage.num_waiting == 0
        await outage.door.all_released()


async def test_a_request_that_was_lost_with_its_group_is_sent_to_its_next_life():
    """
    It is counted once in each: what the first had ended with it.
    """
    async with Outage.opened() as outage, FakeGroup.listening() as reborn:
        await outage.lost()
        outage.begin()
        outage.pass_time(TOLD_S)
        await turns()
        assert outage.num_waiting == 1

        outage.end(reborn)
        received = await reborn.next_request()
        received.answer()

        assert (await outage.client.response()).status == 200
        await outage.door.all_released()
        assert len(outage.site.groups[0].received) == 1
        assert outage.in_flight() == InFlight(charge_of(received), 1)  # it has reported none
        assert outage.door.meters.retries == {"lost": 1}
        counted = sum(outage.door.meters.prompt_tokens.values())
        assert counted == charge_of(received)
        assert sum(outage.door.meters.responses.values()) == 1


async def test_one_that_no_connection_was_made_for_is_kept_as_well():
    """
    The group is gone and the table does not tell yet.
    """
    async with Outage.opened() as outage, FakeGroup.listening() as reborn:
        with refusing_port() as port:
            gone = GroupEntry(0, GroupState.READY, FIRST, "127.0.0.1", port)
            outage.house.publish_table(gone)
            outage.client.send(post())
            await outage.waits()
        assert outage.in_flight() == InFlight(0, 0)
        outage.begin()

        outage.end(reborn)
        outage.pass_time(TOLD_S)
        (await reborn.next_request()).answer()

        assert (await outage.client.response()).status == 200


async def test_one_that_a_leaving_group_refuses_is_kept():
    """
    It came after the group had been told to end.
    """
    async with Outage.opened() as outage, FakeGroup.listening() as reborn:
        outage.client.send(post())
        received = await outage.site.groups[0].next_request()
        outage.begin(GroupState.DRAINING)
        received.answer(status=b"503 Service Unavailable")
        await outage.waits()

        outage.end(reborn)
        outage.pass_time(TOLD_S)
        (await reborn.next_request()).answer()

        assert (await outage.client.response()).status == 200


async def test_a_group_that_is_full_says_so_at_once():
    """
    It serves, so there is nothing to wait for.
    """
    async with Outage.opened() as outage:
        outage.client.send(post())
        received = await outage.site.groups[0].next_request()
        received.answer(status=b"503 Service Unavailable")

        assert (await outage.client.response()).status == 503


async def test_those_that_wait_for_room_wait_on():
    """
    With late admission; they go when a new life reports room.
    """
    async with Outage.opened(admission="late") as outage:
        house = outage.house
        house.loads.publish([load_report(0, running_requests=100, sampled_ns=house.clock.ns())], 2)
        outage.client.send(post())
        await outage.waits()

        outage.begin()
        await turns()
        assert outage.num_waiting == 1
        outage.end()

        (await outage.site.groups[0].next_request()).answer()
        assert (await outage.client.response()).status == 200


async def test_a_stream_ends_with_an_error_all_the_same():
    """
    What was said cannot be taken back.
    """
    async with Outage.opened() as outage:
        outage.client.send(post())
        received = await outage.site.groups[0].next_request()
        received.write(SSE_HEAD + chunk(b'data: {"n":1}\n\n'))
        await outage.client.head()
        received.abort()

        assert b"dp_group_lost" in await outage.client.chunked_rest()
        assert outage.num_waiting == 0
        await outage.door.all_released()


async def test_a_client_that_leaves_while_it_waits_is_gone():
    """
    Nothing is sent for it.
    """
    async with Outage.opened() as outage, outage.door.client() as other:
        await outage.lost()
        outage.begin()
        other.send(post())
        await outage.waits(2)

        outage.client.leave()
        other.leave()
        await outage.waits(0)
        outage.pass_time(TOLD_S)
        outage.end()
        await turns()

        assert len(outage.site.groups[0].received) == 1
        await outage.door.all_released()


@pytest.mark.parametrize("admission", ["immediate", "late"])
async def test_who_waits_is_told_when_all_that_is_left_has_released_its_memory(admission):
    """
    So is who comes then: nobody starts such a group again.
    """
    async with Outage.opened(2, admission=admission) as outage:
        released = GroupEntry(0, GroupState.RELEASED, FIRST)
        outage.site.present(released, GroupEntry(1, GroupState.DEAD, FIRST))
        outage.client.send(post())
        await outage.waits()

        outage.site.present(released, GroupEntry(1, GroupState.RELEASED, NEXT))
        refused = await outage.client.response()
        outage.client.send(post())
        for told in (refused, await outage.client.response()):
            assert (told.status, told.error["code"]) == (503, "no_dp_group")
            assert "2 released" in told.error["message"]


async def test_one_that_waits_for_a_group_to_come_back_keeps_nobody_from_another():
    """
    With late admission, and however long it has waited: room it could not use is nothing to keep.
    """
    async with Outage.opened(2, admission="late") as outage, outage.door.client() as other:
        outage.site.present(GroupEntry(1, GroupState.DEAD, FIRST))
        outage.client.send(post())
        received = await outage.site.groups[0].next_request()
        received.answer(status=b"503 Service Unavailable")
        await outage.waits()
        outage.pass_time(10)

        other.send(post())
        (await outage.site.groups[0].next_request()).answer()

        assert (await other.response()).status == 200
        assert outage.num_waiting == 1


async def test_no_more_wait_than_may():
    """
    --max-waiting-requests bounds them.
    """
    async with (
        Outage.opened(max_waiting_requests=1) as outage,
        outage.door.client() as other,
    ):
        outage.begin()
        outage.client.send(post())
        await outage.waits()

        other.send(post())

        refused = await other.response()
        assert (refused.status, refused.error["code"]) == (503, "waiting_room_full")
        assert refused.header(b"retry-after") == b"1"
        assert outage.num_waiting == 1


async def test_an_outage_that_lasts_is_waited_out_once():
    """
    Who waits is told, who comes then is told at once, and who was lost with its group is told that.
    """
    async with Outage.opened() as outage, outage.door.client() as other:
        await outage.lost()
        outage.begin()
        other.send(post())
        await outage.waits(2)

        outage.pass_time(WAIT_S - 0.1)
        await turns()
        assert outage.num_waiting == 2
        outage.pass_time(0.2)

        refused = await other.response()
        assert (refused.status, refused.error["code"]) == (503, "no_dp_group")
        assert refused.header(b"retry-after") == b"1"
        lost = await outage.client.response()
        assert (lost.status, lost.error["code"]) == (502, "dp_group_lost")
        assert "1 dead" in lost.error["message"]
        other.send(post())
        assert (await other.response()).status == 503
        assert outage.num_waiting == 0


async def test_an_outage_lasts_until_a_group_serves():
    """
    A group that only begins to start, again and again, does not prolong it; the next is another.
    """
    async with Outage.opened() as outage:
        outage.begin()
        outage.door.door.dispatcher.refresh()
        outage.pass_time(WAIT_S - 1)
        outage.site.present(GroupEntry(0, GroupState.STARTING, NEXT))
        outage.client.send(post())
        await outage.waits()
        outage.pass_time(2)
        assert (await outage.client.response()).status == 503

        outage.end()
        outage.door.door.dispatcher.refresh()
        outage.site.present(GroupEntry(0, GroupState.DEAD, NEXT))
        outage.client.send(post())
        await outage.waits()


async def test_a_request_whose_connection_broke_and_whose_group_lives_is_told_so():
    """
    It is not sent to that life of it again, and told as soon as a death would be known.
    """
    async with Outage.opened() as outage:
        await outage.lost()
        outage.pass_time(TOLD_S)

        told = await outage.client.response()

        assert (told.status, told.error["code"]) == (502, "dp_group_lost")
        assert len(outage.site.groups[0].received) == 1


async def test_a_request_is_kept_once():
    """
    It may be what ends the groups.
    """
    async with Outage.opened() as outage, FakeGroup.listening() as reborn:
        await outage.lost()
        outage.begin()
        outage.pass_time(TOLD_S)
        outage.end(reborn)

        (await reborn.next_request()).abort()

        assert (await outage.client.response()).status == 502
        await outage.door.all_released()


async def test_whoever_retries_nothing_keeps_nothing_that_was_sent():
    """
    What was not is kept all the same.
    """
    async with Outage.opened(retry_max_retries=0) as outage:
        outage.client.send(post())
        (await outage.site.groups[0].next_request()).abort()
        assert (await outage.client.response()).status == 502

        outage.begin()
        outage.client.send(post())
        await outage.waits()


async def test_all_of_a_set_are_tried_before_one_is_kept():
    """
    The table may not tell yet that they end as well; then it goes where the set serves again.
    """
    async with (
        Outage.opened(3) as outage,
        FakeGroup.listening() as one,
        FakeGroup.listening() as two,
        FakeGroup.listening() as three,
    ):
        outage.client.send(post())
        for group in outage.site.groups:
            (await group.next_request()).abort()
        await outage.waits()
        outage.begin()
        outage.pass_time(TOLD_S)

        outage.end(one, two, three)
        await until(lambda: one.received or two.received or three.received)
        for group in (one, two, three):
            for received in group.received:
                received.answer()

        assert (await outage.client.response()).status == 200
        await outage.door.all_released()


async def test_one_that_asks_for_a_group_waits_for_that_one():
    """
    Another would be no answer.
    """
    async with Outage.opened(2) as outage:
        outage.site.present(GroupEntry(1, GroupState.DEAD, FIRST))
        outage.client.send(post(extra=b"X-Data-Parallel-Rank: 1\r\n"))
        await outage.waits()
        assert outage.site.num_received == [0, 0]

        outage.end()
        (await outage.site.groups[1].next_request()).answer()

        assert (await outage.client.response()).status == 200


async def test_a_door_that_stops_turns_them_away():
    """
    Both kinds.
    """
    async with Outage.opened() as outage, outage.door.client() as other:
        await outage.lost()
        outage.begin()
        other.send(post())
        await outage.waits(2)

        outage.door.door.stop()

        assert (await other.response()).status == 503
        assert (await outage.client.response()).status == 502


async def test_backends_are_not_waited_for():
    """
    Nobody here starts them again.
    """
    async with Outage.opened(backends_file="some", max_groups=1) as outage:
        engine = GroupEntry(0, GroupState.DEAD, FIRST, engine="vllm", model="m")
        outage.site.present(engine)
        outage.client.send(post())

        assert (await outage.client.response()).status == 503
