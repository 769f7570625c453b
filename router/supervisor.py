"""
Keeps the processes of an instance running, and stops them in order.

    process         when it ends
    control plane   is started again; no stream notices
    front door      is started again; its clients are cut
    a rank          the whole set of ranks is started again: their gather is one

A process that keeps ending is started again ever more slowly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from router import commands
from router.child import Child, describe_end
from router.errors import StartError
from router.instance import Instance
from router.options import ServeOptions

_log = logging.getLogger("levelhead.serve")
_GRACE_S = 10.0


class Pauses(NamedTuple):
    """How long to wait before what has ended is started again; each time twice as long."""

    first_s: float = 0.5
    longest_s: float = 30.0
    steady_s: float = 60.0
    """What ran for so long begins with the first pause again."""


@dataclass
class Unit:
    """Processes that are started and stopped together."""

    name: str
    start: Callable[[], AsyncIterator[Child]]
    grace_s: float = _GRACE_S
    children: list[Child] = field(default_factory=list)

    async def first_end(self) -> Child:
        """Wait until one of them ends."""
        assert self.children
        waits = {asyncio.create_task(child.wait()): child for child in self.children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return waits[done.pop()]

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(child.stop(self.grace_s) for child in self.children))
        self.children = []


class Supervisor:
    """Owns every child of the root."""

    def __init__(
        self,
        instance: Instance,
        options: ServeOptions,
        model_path: Path,
        pauses: Pauses = Pauses(),  # noqa: B008  immutable
    ) -> None:
        self._instance = instance
        self._options = options
        self._model_path = model_path
        self._pauses = pauses
        self._life = 0
        self.engine = Unit("ranks", self._start_ranks)
        self.control_plane = Unit("control plane", self._start_control_plane)
        drain_s = instance.drain_timeout_s + _GRACE_S
        self.front_doors = [
            Unit(f"front door {slot}", self._front_door_starter(slot), drain_s)
            for slot in range(instance.num_front_doors)
        ]
        self._watching: set[asyncio.Task[None]] = set()

    async def start(self, unit: Unit) -> None:
        """Start a unit that does not run yet.  What has started is known even if the rest fails."""
        async for child in unit.start():
            unit.children.append(child)

    def keep(self, unit: Unit) -> None:
        """Start the unit again whenever one of its processes ends, from now on."""
        self._watching.add(asyncio.create_task(self._keep(unit)))

    async def started(self, unit: Unit, ready: Awaitable[None]) -> None:
        """Wait for `ready`; raises StartError if a process of the unit ends first."""
        waiting = asyncio.ensure_future(ready)
        ended = asyncio.create_task(unit.first_end())
        await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if waiting.done():
            await waiting
            return
        waiting.cancel()
        child = ended.result()
        assert child.returncode is not None
        raise StartError(f"{child.name} {describe_end(child.returncode)} before it was ready")

    async def stop(self) -> None:
        """Stop everybody: clients first, then the groups, then who watches them."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.gather(*(unit.stop() for unit in self.front_doors))
        await self.engine.stop()
        await self.control_plane.stop()

    def kill(self) -> None:
        """End everybody at once: whoever waits in stop() has not long to wait then."""
        for unit in (*self.front_doors, self.engine, self.control_plane):
            for child in unit.children:
                child.kill()

    async def _keep(self, unit: Unit) -> None:
        loop, pause_s = asyncio.get_running_loop(), self._pauses.first_s
        while True:
            began_s = loop.time()
            child = await unit.first_end()
            assert child.returncode is not None
            if loop.time() - began_s > self._pauses.steady_s:
                pause_s = self._pauses.first_s
            _log.error(
                "%s (pid %d) %s; the %s will be started again in %.1f s",
                child.name, child.pid, describe_end(child.returncode), unit.name, pause_s,
            )  # fmt: skip
            while not await self._started_again(unit, pause_s):
                pause_s = min(2 * pause_s, self._pauses.longest_s)
            pause_s = min(2 * pause_s, self._pauses.longest_s)

    async def _started_again(self, unit: Unit, pause_s: float) -> bool:
        await unit.stop()
        await asyncio.sleep(pause_s)
        try:
            await self.start(unit)
        except OSError as error:  # no memory or no process to be had
            _log.error("the %s could not be started: %s", unit.name, error)
            return False
        return True

    async def _start_ranks(self) -> AsyncIterator[Child]:
        self._life += 1
        environment = commands.worker_environment(self._options)
        for dp_rank in range(self._instance.dp_size):
            command = commands.worker(
                self._instance, self._options, self._model_path, dp_rank, self._life
            )
            yield await Child.start(f"rank {dp_rank}", command, environment)

    async def _start_control_plane(self) -> AsyncIterator[Child]:
        yield await Child.start("control plane", commands.control_plane(self._instance), {})

    def _front_door_starter(self, slot: int) -> Callable[[], AsyncIterator[Child]]:
        async def start() -> AsyncIterator[Child]:
            command = commands.front_door(self._instance, slot)
            yield await Child.start(f"front door {slot}", command, {})

        return start
