"""
Keeps the processes of an instance running, and stops them in order.

    process         when it ends
    control plane   is started again; no stream notices
    front door      its row of the in-flight board is reclaimed, and it is started again;
                    its clients are cut
    a rank          is started again, and nobody else is: the other groups go on serving;
                    of ranks that compute together all are (see router.ranks)

How soon, router.upkeep says.

Were this supervision itself to fail, nobody would start anything again: the
instance ends then, with an error, so that whoever supervises it can act.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path

from router import commands, question, upkeep
from router.child import Child, describe_end
from router.errors import StartError, SupervisionLost
from router.instance import Instance
from router.options import ServeOptions
from router.pauses import Pauses
from router.ping import Ping
from router.ranks import Ranks
from router.unit import Unit
from router.upkeep import Kept

_log = logging.getLogger("levelhead.serve")


class Supervisor:
    """Owns every child of the root."""

    def __init__(
        self,
        instance: Instance,
        options: ServeOptions,
        model_path: Path | None,
        environment: Mapping[str, str],
        reclaim: Callable[[int], int],
        pauses: Pauses = Pauses(),  # noqa: B008  immutable
        ping_period_s: float = question.PERIOD_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        `model_path`: None if groups are backends, so no rank of ours is to be started.

        `environment`: of this process.  `reclaim` takes a dead front door's row off the
        board (see shm.board).
        """
        self._instance = instance
        self._reclaim_row = reclaim
        self._pauses = pauses
        self._ping_period_s = ping_period_s
        self._clock_s = clock_s
        self.control_plane = Unit(
            "control plane",
            partial(Child.start, "control plane", commands.control_plane(instance), {}),
            question.of_control_plane(instance),
            clock_s,
        )
        self.ranks: Sequence[Kept] = ()
        if model_path is not None:
            self.ranks = Ranks(instance, options, model_path, environment, clock_s).kept()
        self.front_doors = [self._front_door(slot) for slot in range(instance.num_front_doors)]
        self._watching: set[asyncio.Task[None]] = set()
        self._has_failed = asyncio.Event()

    def keep(self, kept: Kept) -> None:
        """From now on, start it again whenever it ends, and end a process that is stuck."""
        self._watch(kept.name, upkeep.keep(kept, self._pauses))
        for unit in kept.units:
            self._watch(unit.name, Ping(unit).keep(self._ping_period_s))

    async def failed(self) -> None:
        """Wait until a unit that is to be kept is kept no more, and raise SupervisionLost."""
        await self._has_failed.wait()
        raise SupervisionLost("a process is supervised no more (see the log): the instance ends")

    async def started(self, starting: Sequence[Kept], ready: Awaitable[object]) -> None:
        """Wait for `ready`; raises StartError if one of their processes ends first."""
        units = [unit for kept in starting for unit in kept.units]
        waiting = asyncio.ensure_future(ready)
        ends = {asyncio.create_task(unit.end()): unit for unit in units}
        try:
            await asyncio.wait((waiting, *ends), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                await waiting
                for unit in units:
                    unit.answered()
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
        await asyncio.gather(*(kept.stop() for kept in self.ranks))
        await self.control_plane.stop()

    def kill(self) -> None:
        """End everybody at once: whoever waits in stop() has not long to wait then."""
        for kept in (*self.front_doors, *self.ranks, self.control_plane):
            for unit in kept.units:
                if unit.child is not None:
                    unit.child.kill()

    def _watch(self, name: str, watching: Coroutine[None, None, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():  # neither returns, so it has raised
                _log.error("%s is supervised no more", name, exc_info=task.exception())
                self._has_failed.set()

        task = asyncio.create_task(watching)
        task.add_done_callback(ended)
        self._watching.add(task)

    def _front_door(self, slot: int) -> Unit:
        name = f"front door {slot}"
        return Unit(
            name,
            partial(Child.start, name, commands.front_door(self._instance, slot), {}),
            question.of_front_door(self._instance, slot),
            self._clock_s,
            self._instance.drain_timeout_s + question.GRACE_S,
            partial(self._reclaim, slot),
        )

    def _reclaim(self, slot: int) -> None:
        tokens = self._reclaim_row(slot)
        if tokens:
            _log.warning("requests of %d tokens ended with front door %d", tokens, slot)
