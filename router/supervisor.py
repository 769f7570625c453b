"""
Keeps the processes of an instance running, and stops them in order.

    process         when it ends
    control plane   is started again; no stream notices
    front door      its row of the in-flight board is reclaimed, and it is started again;
                    its clients are cut
    a rank          is started again, and nobody else is: the other groups go on serving

A process that keeps failing is started again ever more slowly (see
router.pauses).  One that was ready and ends with status 0 was asked to (a group
that has drained): it is started again at once.

Were this supervision itself to fail, nobody would start anything again: the
instance ends then, with an error, so that whoever supervises it can act.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

from router import commands, question
from router.card import CardReader
from router.child import Child, describe_end
from router.errors import StartError, SupervisionLost
from router.instance import Instance
from router.options import ServeOptions
from router.pauses import Life, Pauses
from router.ping import Ping
from router.unit import Unit

_log = logging.getLogger("levelhead.serve")
_NEVER_READY = Life(1, None)


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
        self._options = options
        self._environment = environment
        self._reclaim_row = reclaim
        self._pauses = pauses
        self._ping_period_s = ping_period_s
        self._clock_s = clock_s
        self._cards = CardReader(instance)
        self.control_plane = Unit(
            "control plane",
            partial(Child.start, "control plane", commands.control_plane(instance), {}),
            question.of_control_plane(instance),
            clock_s,
        )
        ranks = range(0 if model_path is None else options.num_ranks)
        self.ranks = [self._rank(model_path or Path(), rank) for rank in ranks]
        self.front_doors = [self._front_door(slot) for slot in range(instance.num_front_doors)]
        self._watching: set[asyncio.Task[None]] = set()
        self._has_failed = asyncio.Event()

    def keep(self, unit: Unit) -> None:
        """From now on, start the unit again whenever it ends, and end it when it is stuck."""
        self._watch(unit, self._keep(unit))
        self._watch(unit, Ping(unit).keep(self._ping_period_s))

    async def failed(self) -> None:
        """Wait until a unit that is to be kept is kept no more, and raise SupervisionLost."""
        await self._has_failed.wait()
        raise SupervisionLost("a process is supervised no more (see the log): the instance ends")

    async def started(self, units: list[Unit], ready: Awaitable[object]) -> None:
        """Wait for `ready`; raises StartError if one of the units ends first."""
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
        await asyncio.gather(*(unit.stop() for unit in self.ranks))
        await self.control_plane.stop()

    def kill(self) -> None:
        """End everybody at once: whoever waits in stop() has not long to wait then."""
        for unit in (*self.front_doors, *self.ranks, self.control_plane):
            if unit.child is not None:
                unit.child.kill()

    def _watch(self, unit: Unit, watching: Coroutine[None, None, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():  # neither returns, so it has raised
                _log.error("%s is supervised no more", unit.name, exc_info=task.exception())
                self._has_failed.set()

        task = asyncio.create_task(watching)
        task.add_done_callback(ended)
        self._watching.add(task)

    async def _keep(self, unit: Unit) -> None:
        pause_s: float | None = None
        while True:
            life = await unit.life()
            pause_s = self._pauses.after(pause_s, life)
            _tell(unit, life.returncode, pause_s)
            _between_lives(unit)
            await asyncio.sleep(pause_s or 0)
            while not await _has_started(unit):
                pause_s = self._pauses.after(pause_s, _NEVER_READY)
                await asyncio.sleep(pause_s or 0)

    def _rank(self, model_path: Path, rank: int) -> Unit:
        dp_rank = rank * self._instance.dp_size // self._options.num_ranks
        command = commands.worker(self._instance, self._options, model_path, rank)
        environment = commands.worker_environment(self._instance, self._options, self._environment)
        name = f"rank {rank}"
        return Unit(
            name,
            partial(Child.start, name, command, environment),
            question.of_rank(self._cards, dp_rank, self._instance.drain_timeout_s),
            self._clock_s,
            self._instance.drain_timeout_s + question.GRACE_S,
        )

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


async def _has_started(unit: Unit) -> bool:
    try:
        await unit.start()
    except StartError as error:
        _log.error("%s", error)
        return False
    return True


def _between_lives(unit: Unit) -> None:
    """What fails here costs figures; a process that is not started again costs more."""
    try:
        unit.between_lives()
    except Exception:  # noqa: BLE001  whatever it is, the process is needed
        _log.exception("what follows the end of %s failed; it is started again", unit.name)


def _tell(unit: Unit, returncode: int, pause_s: float | None) -> None:
    assert unit.child is not None
    told = (unit.name, unit.child.pid, describe_end(returncode))
    if pause_s is None:
        _log.info("%s (pid %d) %s; it is started again", *told)
    else:
        _log.error("%s (pid %d) %s; it is started again in %.1f s", *told, pause_s)
