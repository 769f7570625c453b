"""
uvicorn in the main thread, and what happens around its life.

    bind ─► started ─► on_started (the card) ─► … ─► signal ─► on_stopping (the engine) ─► closed

A signal first ends the running requests, so that their answers end, and then
uvicorn waits for them to be sent, for a bounded time.  One that comes before
uvicorn listens for signals is remembered, and the server does not start.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_S = 3600
SHUTDOWN_LIMIT_S = 5


def bind(host: str) -> socket.socket:
    """Return a socket bound to a free port of host.  Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.bind((host, 0))
    return bound


class SignalMemory:
    """
    Counts SIGTERM and SIGINT while uvicorn's handlers are not there, and does no more.

    Before they are, a signal must not be lost.  uvicorn raises the signal that stopped
    it again once it has shut down, for whoever had a handler before; here that is the
    normal end, and not an error.
    """

    def __init__(self) -> None:
        self.num_heard = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.num_heard += 1


class LeaderServer(uvicorn.Server):
    """
    A uvicorn server that says when it has started and when it is about to stop.

    signals: with one in there it stops before it has started.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_started: Callable[[], None],
        on_stopping: Callable[[], None],
        signals: SignalMemory,
    ) -> None:
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
                timeout_graceful_shutdown=SHUTDOWN_LIMIT_S,
            )
        )
        self._on_started = on_started
        self._on_stopping = on_stopping
        self._signals = signals
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so, unless a signal came before."""
        if self._signals.num_heard:
            self.should_exit = True
            return
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, at a signal or when told to; runs between any two bytecodes."""
        self._loop.call_soon_threadsafe(self._on_stopping)
        super().handle_exit(sig, frame)
