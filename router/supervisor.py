"""
Keeps the processes of an instance running, and stops them in order.

    process         when it ends
    control plane   is started again; no stream notices
    front door      its row of the in-flight board is reclaimed, and it is started again;
                    its clients are cut
    a rank          is started again, and nobody else is: the other groups go on serving

A process that keeps failing is started again ever more slowly.  One that ends
with status 0 was asked to (a group that has drained): it is started again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from router import commands, ping
from router.card import CardReader
from router.child import Child, describe_end
from router.errors import StartError
from router.instance import Instance
from router.options import ServeOptions
from router.ping import Answer, Ping, Question

_log = logging.getLogger("levelhead.serve")
_GRACE_S = 10.0


class Pauses(NamedTuple):
    """How long to wait before what has ended is started again; each time twice as long."""

    first_s: float = 0.5
    longest_s: float = 30.0
    steady_s: float = 10.0
    """What ran for so long begins with the first pause again."""

    def after(self, pause_s: float, lived_s: float, returncode: int) -> float:
        """The pause after a life that `pause_s` came before; 0 if it was asked to end."""
        if returncode == 0:
            return 0.0
        if lived_s > self.steady_s or not pause_s:
            return self.first_s
        return min(2 * pause_s, self.longest_s)


@dataclass
class Unit:
    """What one process is for, through all its lives."""

    name: str
    start: Callable[[], Awaitable[Child]]
    question: Question
    """How its process is asked whether it answers."""
    grace_s: float = _GRACE_S
    between_lives: Callable[[], None] = lambda: None
    """Called when a life has ended, before the next begins."""
    child: Child | None = None

    async def end(self) -> int:
        """Wait until its process ends; return the status."""
        assert self.child is not None
        return await self.child.wait()

    async def answers(self) -> bool:
        """Whether its process answers now."""
        assert self.child is not None
        return await self.question.ask(self.child.pid) is Answer.GIVEN

    async def stop(self) -> None:
        """End its process, if there is one."""
        if self.child is not None:
            await self.child.stop(self.grace_s)
        self.child = None


class Supervisor:
    """Owns every child of the root."""

    def __init__(
        self,
        instance: Instance,
        options: ServeOptions,
        model_path: Path,
        reclaim: Callable[[int], int],
        pauses: Pauses = Pauses(),  # noqa: B008  immutable
        ping_period_s: float = ping.PERIOD_S,
    ) -> None:
        """`reclaim` takes a dead front door's row off the board (see shm.board)."""
        self._instance = instance
        self._options = options
        self._model_path = model_path
        self._reclaim_row = reclaim
        self._pauses = pauses
        self._ping_period_s = ping_period_s
        self._cards = CardReader(instance)
        self.control_plane = Unit(
            "control plane",
            partial(Child.start, "control plane", commands.control_plane(instance), {}),
            ping.of_control_plane(instance),
        )
        self.ranks = [self._rank(dp_rank) for dp_rank in range(instance.dp_size)]
        self.front_doors = [self._front_door(slot) for slot in range(instance.num_front_doors)]
        self._watching: set[asyncio.Task[None]] = set()

    async def start(self, unit: Unit) -> None:
        """Start a unit that does not run yet."""
        unit.child = await unit.start()

    def keep(self, unit: Unit) -> None:
        """From now on, start the unit again whenever it ends, and end it when it is stuck."""
        self._watching.add(asyncio.create_task(self._keep(unit)))
        self._watching.add(asyncio.create_task(Ping(unit).keep(self._ping_period_s)))

    async def started(self, units: list[Unit], ready: Awaitable[object]) -> None:
        """Wait for `ready`; raises StartError if one of the units ends first."""
        waiting = asyncio.ensure_future(ready)
        ends = {asyncio.create_task(unit.end()): unit for unit in units}
        try:
            await asyncio.wait((waiting, *ends), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                await waiting
                return
            ended = next(end for end in ends if end.done())
            end = describe_end(ended.result())
            raise StartError(f"{ends[ended].name} {end} before it was ready")
        finally:
            for task in (waiting, *ends):
                task.cancel()

    async def stop(self) -> None:
        """Stop everybody: clients first, then the groups, then who watches them."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.gather(*(unit.stop() for unit in self.front_doors))
        await asyncio.gather(*(unit.stop() for unit in self.ranks))
        await self.control_plane.stop()

    def kill(self) -> None:
        """End everybody at once: whoever waits in stop() has not long to wait then."""
        for unit in (*self.front_doors, *self.ranks, self.control_plane):
            if unit.child is not None:
                unit.child.kill()

    async def _keep(self, unit: Unit) -> None:
        loop, pause_s = asyncio.get_running_loop(), 0.0
        while True:
            began_s = loop.time()
            returncode = await unit.end()
            pause_s = self._pauses.after(pause_s, loop.time() - began_s, returncode)
            _tell(unit, returncode, pause_s)
            unit.between_lives()
            await asyncio.sleep(pause_s)
            while not await self._started_again(unit):
                pause_s = self._pauses.after(pause_s, 0.0, 1)
                await asyncio.sleep(pause_s)

    async def _started_again(self, unit: Unit) -> bool:
        try:
            await self.start(unit)
        except OSError as error:  # no memory or no process to be had
            _log.error("%s could not be started: %s", unit.name, error)
            return False
        return True

    def _rank(self, dp_rank: int) -> Unit:
        command = commands.worker(self._instance, self._options, self._model_path, dp_rank)
        environment = commands.worker_environment(self._options)
        name = f"rank {dp_rank}"
        return Unit(
            name,
            partial(Child.start, name, command, environment),
            ping.of_rank(self._cards, dp_rank),
            self._instance.drain_timeout_s + _GRACE_S,
        )

    def _front_door(self, slot: int) -> Unit:
        name = f"front door {slot}"
        return Unit(
            name,
            partial(Child.start, name, commands.front_door(self._instance, slot), {}),
            ping.of_front_door(self._instance, slot),
            self._instance.drain_timeout_s + _GRACE_S,
            partial(self._reclaim, slot),
        )

    def _reclaim(self, slot: int) -> None:
        tokens = self._reclaim_row(slot)
        if tokens:
            _log.warning("requests of %d tokens ended with front door %d", tokens, slot)


def _tell(unit: Unit, returncode: int, pause_s: float) -> None:
    assert unit.child is not None
    told = (unit.name, unit.child.pid, describe_end(returncode))
    if returncode == 0:
        _log.info("%s (pid %d) %s; it is started again", *told)
    else:
        _log.error("%s (pid %d) %s; it is started again in %.1f s", *told, pause_s)
