"""A front door with several groups, for what happens between them."""

from contextlib import AsyncExitStack, asynccontextmanager

from shm.group_table import GroupEntry, GroupState
from tests.router.fakes import until
from tests.router.groups import FakeGroup, charge_of
from tests.router.house import House


class Site:
    """A door, its groups in the order in which they are chosen, and a client."""

    def __init__(self, house, groups, door, client):
        self.house = house
        self.groups = groups
        self.door = door
        self.client = client

    @classmethod
    @asynccontextmanager
    async def opened(cls, num_groups, make_sink=lambda instance: None, **settings):
        """Groups that answer when the test says so; group 0 reports the least tokens."""
        async with House.built(dp_size=num_groups, **settings) as house, AsyncExitStack() as stack:
            listening = [FakeGroup.listening() for _ in range(num_groups)]
            groups = [await stack.enter_async_context(each) for each in listening]
            house.present(*groups)
            house.report_holding(*(1000 * rank for rank in range(num_groups)))
            door = await stack.enter_async_context(house.door(sink=make_sink(house.instance)))
            client = await stack.enter_async_context(door.client())
            yield cls(house, groups, door, client)

    def present(self, *changed):
        """Publish the table again, with these rows in place of those of the same groups."""
        rows = {
            rank: GroupEntry(rank, GroupState.READY, 11, "127.0.0.1", group.port, "m", 2048)
            for rank, group in enumerate(self.groups)
        }
        self.house.publish_table(*(rows | {row.dp_rank: row for row in changed}).values())

    @property
    def num_received(self):
        """Requests that each group got."""
        return [len(group.received) for group in self.groups]

    async def all_released(self):
        """Wait for the end, and check that what reached a group is all that is in flight to it."""
        await self.door.all_released()
        ledger = self.door.controller.ledger
        for rank, group in enumerate(self.groups):
            if ledger.epoch(rank) == 11:
                charges = [charge_of(received) for received in group.received]
                await until(lambda r=rank, c=charges: ledger.in_flight(r) == (sum(c), len(c)))
