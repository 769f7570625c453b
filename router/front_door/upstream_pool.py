"""
The connections of a front door to its upstreams, by address.

Those that wait for their next exchange are handed out newest first.  All of
them are known, those that are still being made too, so that everything under
way with an upstream that is gone comes to its end.

What is said to be gone may have ended or may be stopped, and nobody here can
tell which.  The connections can: those of a process that has ended are closed
by the kernel, and what it had written arrives before that.  So its answers are
read to their end, however slow their client, and only a connection that is
read and stays silent is given up: its upstream is stopped, or cut off.  If it is found
well before that, nothing is.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict

from router.backends.tls import TlsContexts
from router.front_door.upstream import Address, UpstreamConnection

_SILENT_S, _PROBE_S, _NUM_PROBES = 30, 10, 3  # TCP keep-alive: a host that is gone is found in 60 s

_MAX_IDLE_PER_ADDRESS = 1024
_MAX_SILENT_TICKS = 4  # the loop has read every socket several times by then


class UpstreamPool:
    """Makes connections and keeps those that wait."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect_timeout_s: float = 5.0,
        max_idle_ticks: int | None = None,
        tls_shutdown_s: float = 1.0,
    ) -> None:
        """
        max_idle_ticks: how long a connection may wait, for upstreams that close those that do.

        One that is taken just when it is closed loses its request.

        tls_shutdown_s: how long one that was closed waits for the peer's part of the end of TLS.
        A proxy that looks at TCP alone learns only then that nobody wants its engine's answer.
        """
        self._loop = loop
        self._max_idle_ticks = max_idle_ticks
        self._num_ticks = 0
        self._idle_since: dict[UpstreamConnection, int] = {}
        """Tick at which each was given back, if they may not wait for ever."""
        self._connect_timeout_s = connect_timeout_s
        self._tls = TlsContexts()
        self._tls_shutdown_s = tls_shutdown_s
        self._idle: defaultdict[Address, list[UpstreamConnection]] = defaultdict(list)
        self._all: defaultdict[Address, set[UpstreamConnection]] = defaultdict(set)
        self._connecting: dict[UpstreamConnection, asyncio.Timeout] = {}
        self._doomed: dict[UpstreamConnection, str] = {}
        """Those to upstreams that are gone, and why they are."""
        self._closing = False

    def __repr__(self) -> str:
        idle = {address: len(waiting) for address, waiting in self._idle.items()}
        known = {address: len(connections) for address, connections in self._all.items()}
        return f"<UpstreamPool, idle {idle}, all {known}, {len(self._doomed)} doomed>"

    def take(self, address: Address) -> UpstreamConnection | None:
        """An open connection that waits, or None."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    async def connect(self, address: Address, *, dechunk: bool = False) -> UpstreamConnection:
        """A new connection.  Raises OSError (TimeoutError and ssl.SSLError among them)."""
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
        if connection in self._doomed:  # made just when its upstream was found to be gone
            connection.cancel()
            raise ConnectionResetError(self._doomed[connection])
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """The connection's exchange is over; keep it for the next."""
        idle = self._idle[connection.address]
        is_refused = self._closing or connection in self._doomed
        if is_refused or len(idle) >= _MAX_IDLE_PER_ADDRESS:
            connection.cancel()
        else:
            idle.append(connection)
            if self._max_idle_ticks is not None:
                self._idle_since[connection] = self._num_ticks

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        address = connection.address
        idle, known = self._idle[address], self._all[address]
        if connection in idle:
            idle.remove(connection)
        known.discard(connection)
        self._doomed.pop(connection, None)
        self._idle_since.pop(connection, None)
        if not known:  # addresses of earlier lives do not pile up
            del self._all[address], self._idle[address]

    def lose(self, address: Address, reason: str) -> None:
        """
        The upstream there is gone: no connection of today's is handed out any more.

        Those that are being made are given up.  Those that are busy end with
        what still comes, or as lost once nothing does (see tick); so nobody
        hears of it before this returns, and whoever calls may be in the
        middle of an exchange.
        """
        for connection in self._idle.pop(address, []):
            connection.cancel()
        for connection in self._all.get(address, ()):
            limit = self._connecting.get(connection)
            if limit is not None and not limit.expired():
                limit.reschedule(self._loop.time())
            self._doomed[connection] = reason

    def spare(self, address: Address) -> None:
        """The upstream there is well after all, and the same: what is under way goes on."""
        for connection in self._all.get(address, ()):
            if self._doomed.pop(connection, None) is not None:
                connection.num_silent_ticks = 0

    def tick(self) -> None:
        """
        Some time has passed: end as lost what was silent for several ticks, its upstream gone.

        Counted in ticks and not in seconds: if this process itself stood
        still, what came meanwhile is read before the next but one.  A
        connection that is not read, because its client is slow, is not silent.
        """
        for connection, reason in list(self._doomed.items()):
            connection.num_silent_ticks += not connection.is_paused
            if connection.num_silent_ticks >= _MAX_SILENT_TICKS:
                connection.lose(reason)
        self._num_ticks += 1
        if self._max_idle_ticks is not None:
            self._close_old(self._num_ticks - self._max_idle_ticks)

    def _close_old(self, last_tick: int) -> None:
        """Close what waits since that tick, or longer."""
        for idle in list(self._idle.values()):
            for connection in [c for c in idle if self._idle_since[c] <= last_tick]:
                idle.remove(connection)
                connection.cancel()

    def close(self) -> None:
        """Close what waits, and from now on whatever is given back."""
        self._closing = True
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.cancel()
            idle.clear()

    async def _establish(self, connection: UpstreamConnection) -> None:
        host, port, tls = connection.address
        if port:
            context = self._tls.of(tls) if tls else None
            shutdown_s = self._tls_shutdown_s if tls else None  # asyncio refuses it without TLS
            transport, _ = await self._loop.create_connection(
                lambda: connection, host, port, ssl=context, ssl_shutdown_timeout=shutdown_s
            )
            if self._max_idle_ticks is not None:
                _watch(transport.get_extra_info("socket"))
        else:
            await self._loop.create_unix_connection(lambda: connection, host)


def _watch(opened: socket.socket) -> None:
    """
    Have the kernel ask whether the other host is there.

    Nobody else does once a backend has left, and what it has under way is left to it.
    """
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _SILENT_S),
        ("TCP_KEEPINTVL", _PROBE_S),
        ("TCP_KEEPCNT", _NUM_PROBES),
    ):
        if hasattr(socket, name):  # macOS has no TCP_KEEPIDLE
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
