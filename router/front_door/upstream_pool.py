"""
The connections of a front door to its upstreams, by address.

Those that wait for their next exchange are handed out newest first.  All of
them are known, those that are still being made too, so that everything under
way with an upstream that is gone can be ended at once: one that is stopped,
and not dead, breaks no connection by itself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from router.front_door.upstream import Address, UpstreamConnection

_MAX_IDLE_PER_ADDRESS = 1024


class UpstreamPool:
    """Makes connections and keeps those that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect_timeout_s: float = 5.0) -> None:
        self._loop = loop
        self._connect_timeout_s = connect_timeout_s
        self._idle: defaultdict[Address, list[UpstreamConnection]] = defaultdict(list)
        self._all: defaultdict[Address, set[UpstreamConnection]] = defaultdict(set)
        self._connecting: dict[UpstreamConnection, asyncio.Timeout] = {}
        self._closing = False

    def take(self, address: Address) -> UpstreamConnection | None:
        """An open connection that waits, or None."""
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    async def connect(self, address: Address, *, dechunk: bool = False) -> UpstreamConnection:
        """A new connection.  Raises OSError (TimeoutError among them)."""
        connection = UpstreamConnection(self, address, dechunk=dechunk)
        self._all[address].add(connection)
        try:
            async with asyncio.timeout(self._connect_timeout_s) as limit:
                self._connecting[connection] = limit
                await self._establish(connection)
        except BaseException:
            connection.cancel()  # it may have been made just when the caller gave up
            self.forget(connection)
            raise
        finally:
            del self._connecting[connection]
        if not connection.is_open:
            raise ConnectionResetError("closed by the peer at once")
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """The connection's exchange is over; keep it for the next."""
        idle = self._idle[connection.address]
        if self._closing or len(idle) >= _MAX_IDLE_PER_ADDRESS:
            connection.cancel()
        else:
            idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        address = connection.address
        idle, known = self._idle[address], self._all[address]
        if connection in idle:
            idle.remove(connection)
        known.discard(connection)
        if not known:  # addresses of earlier lives do not pile up
            del self._all[address], self._idle[address]

    def lose(self, address: Address, reason: str) -> None:
        """
        The upstream there is gone: end what is under way with it as lost.

        From now on no connection of today's is handed out.  Listeners hear of
        it in a turn of the event loop of their own: whoever found out may be
        in the middle of an exchange that is to end.
        """
        for connection in self._idle.pop(address, []):
            connection.cancel()
        for connection in self._all.get(address, ()):
            limit = self._connecting.get(connection)
            if limit is not None and not limit.expired():
                limit.reschedule(self._loop.time())
            self._loop.call_soon(connection.lose, reason)

    def close(self) -> None:
        """Close what waits, and from now on whatever is given back."""
        self._closing = True
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.cancel()
            idle.clear()

    async def _establish(self, connection: UpstreamConnection) -> None:
        host, port = connection.address
        if port:
            await self._loop.create_connection(lambda: connection, host, port)
        else:
            await self._loop.create_unix_connection(lambda: connection, host)
