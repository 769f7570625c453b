"""
uvicorn in the main thread, and what happens around its life.

    bind ─► started ─► on_started (the card) ─► … ─► signal ─► on_draining ─► (drain over)
      ─► on_stopping (the engine) ─► closed

SIGTERM begins the drain, during which everything is served as before; more of them
change nothing, because who sends one need not know of the others.  SIGINT does the
same once.  A second SIGINT, from somebody who does not want to wait, ends the drain
at once, and so does its limit: then the requests that still run are ended, so that
their answers end, and uvicorn waits for them to be sent, for a bounded time; a
third SIGINT spares that.  A signal that comes before uvicorn listens for them is
remembered, and the server does not start.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

import uvicorn
from starlette.types import ASGIApp

from workers.server.drain import SENDING_LIMIT_S, Drain

KEEP_ALIVE_S = 3600


def bind(host: str) -> socket.socket:
    """Return a socket bound to a free port of host.  Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.bind((host, 0))
    return bound


class SignalMemory:
    """
    Counts SIGTERM and SIGINT while uvicorn's handlers are not there, and does no more.

    Before they are, a signal must not be lost.  Once uvicorn has shut down there is
    nothing left that one could stop.
    """

    def __init__(self) -> None:
        self.num_heard = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.num_heard += 1


class Calls(NamedTuple):
    """
    What the server calls: once when it has started, once when it is told to stop,
    and before it stops, perhaps twice.
    """

    on_started: Callable[[], None]
    on_draining: Callable[[], None]
    on_stopping: Callable[[], None]


class LeaderServer(uvicorn.Server):
    """
    A uvicorn server that drains before it stops.

    signals: with one in there it stops before it has started.
    """

    def __init__(self, app: ASGIApp, calls: Calls, drain: Drain, signals: SignalMemory) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SENDING_LIMIT_S,
            )
        )
        self._calls = calls
        self._drain = drain
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._is_told = False
        self._num_interrupts = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so, unless a signal came before."""
        if self._signals.num_heard:
            self.should_exit = True
            return
        await super().startup(sockets=sockets)
        if self.started:
            self._calls.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, stop, or give up waiting; runs between any two bytecodes."""
        self._num_interrupts += sig == signal.SIGINT
        self.force_exit = self._num_interrupts > 2
        self._loop.call_soon_threadsafe(self._begin if self._num_interrupts < 2 else self._stop)

    def _begin(self) -> None:
        if self._is_told:
            return
        self._is_told = True
        self._drain.begin()
        self._stop_when_drained()
        self._calls.on_draining()

    def _stop_when_drained(self) -> None:
        pause_s = self._drain.remaining_s()
        if pause_s > 0:
            self._loop.call_later(pause_s, self._stop_when_drained)
        else:
            self._stop()

    def _stop(self) -> None:
        self._calls.on_stopping()
        self.should_exit = True
