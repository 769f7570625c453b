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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from router import commands
from router.child import Child, describe_end
from router.errors import StartError
from router.instance import Instance
from router.options import ServeOptions

_log = logging.getLogger("levelhead.serve")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0  # a set that ran for so long starts again without delay
_GRACE_S = 10.0


@dataclass
class _Unit:
    """Processes that are started and stopped together."""

    name: str
    start: Callable[[], Awaitable[list[Child]]]
    grace_s: float = _GRACE_S
    children: list[Child] = field(default_factory=list)

    async def first_end(self) -> Child:
        """Wait until one of them ends."""
        waits = {asyncio.create_task(child.wait()): child for child in self.children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return waits[done.pop()]

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop(self.grace_s) for child in self.children))
        self.children = []


class Supervisor:
    """Owns every child of the root."""

    def __init__(self, instance: Instance, options: ServeOptions, model_path: Path) -> None:
        self._instance = instance
        self._options = options
        self._model_path = model_path
        self._life = 0
        self.engine = _Unit("ranks", self._start_ranks)
        self.control_plane = _Unit("control plane", self._start_control_plane)
        drain_s = instance.drain_timeout_s + _GRACE_S
        self.front_doors = [
            _Unit(f"front door {slot}", self._front_door_starter(slot), drain_s)
            for slot in range(instance.num_front_doors)
        ]
        self._watching: set[asyncio.Task[None]] = set()

    async def start(self, unit: _Unit) -> None:
        """Start a unit that does not run yet."""
        unit.children = await unit.start()

    def keep(self, unit: _Unit) -> None:
        """Start the unit again whenever one of its processes ends, from now on."""
        self._watching.add(asyncio.create_task(self._keep(unit)))

    async def started(self, unit: _Unit, ready: Awaitable[None]) -> None:
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

    async def _keep(self, unit: _Unit) -> None:
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while True:
            began_s = loop.time()
            child = await unit.first_end()
            assert child.returncode is not None
            if loop.time() - began_s > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            _log.error(
                "%s (pid %d) %s; the %s will be started again in %.1f s",
                child.name, child.pid, describe_end(child.returncode), unit.name, pause_s,
            )  # fmt: skip
            await unit.stop()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            unit.children = await unit.start()

    async def _start_ranks(self) -> list[Child]:
        self._life += 1
        environment = commands.worker_environment(self._options)
        return [
            await Child.start(
                f"rank {dp_rank}",
                commands.worker(
                    self._instance, self._options, self._model_path, dp_rank, self._life
                ),
                environment,
            )
            for dp_rank in range(self._instance.dp_size)
        ]

    async def _start_control_plane(self) -> list[Child]:
        command = commands.control_plane(self._instance)
        return [await Child.start("control plane", command, {})]

    def _front_door_starter(self, slot: int) -> Callable[[], Awaitable[list[Child]]]:
        async def start() -> list[Child]:
            command = commands.front_door(self._instance, slot)
            return [await Child.start(f"front door {slot}", command, {})]

        return start
