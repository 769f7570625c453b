"""A front door before somebody else's engines, with stand-ins for them."""

from contextlib import AsyncExitStack, asynccontextmanager

from router.backends.backend import BackendGroup, Kind
from shm.group_table import GroupEntry, GroupState
from tests.router.groups import FakeGroup
from tests.router.house import House


class Backends:
    """A door, the servers behind it, and a client."""

    def __init__(self, house, servers, groups, door, client):
        self.house = house
        self.servers = servers
        self.groups = groups
        self.door = door
        self.client = client

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, *ranks, kind=Kind.VLLM, respond=None, kv_events="", executor=None, **settings
    ):
        """
        A server for each of `ranks`: the engine ranks that are groups of it, or None.
        """
        async with AsyncExitStack() as stack:
            servers, groups = [], []
            for ranks_there in ranks:
                server = await stack.enter_async_context(FakeGroup.listening(respond))
                servers.append(server)
                for rank in ranks_there or (None,):
                    groups.append(
                        BackendGroup("127.0.0.1", server.port, kind, rank, kv_events=kv_events)
                    )
            settings |= {"dp_size": len(groups), "backends": tuple(groups)}
            house = await stack.enter_async_context(House.built(**settings))
            house.publish_table(*entries(groups))
            door = await stack.enter_async_context(house.door(executor=executor))
            client = await stack.enter_async_context(door.client())
            yield cls(house, servers, groups, door, client)

    def present(self, *states, models=()):
        """Publish the table again, with these states, and models by group."""
        self.house.publish_table(*entries(self.groups, states, models))

    @property
    def num_received(self):
        """Requests that each server got."""
        return [len(server.received) for server in self.servers]

    def flying(self, dp_rank=0):
        return self.door.controller.ledger.in_flight(dp_rank)

    def book(self, dp_rank=0):
        return self.door.controller.ledger.book(dp_rank)


def entries(groups, states=(), models=()):
    """Rows of the table, all ready unless told."""
    models = models or [()] * len(groups)
    states = states or [GroupState.READY] * len(groups)
    return [
        GroupEntry(rank, state, 1, group.host, group.port, engine=group.kind.value,
                   engine_rank=group.engine_rank, models=served, kv_events=group.kv_events)
        for rank, (group, state, served) in enumerate(zip(groups, states, models, strict=True))
    ]  # fmt: skip
