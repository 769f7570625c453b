"""
The ranks that compute together: they live, end and begin as one.

    all run ── one ends ──► the others end ── pause ──► all are started
                              by themselves, or after a grace by SIGKILL

Each step of any of them is a collective of all, so when one is gone none can go on.  Those
that are in a step hear of it from their collective and exit.  One that is stopped, or waits
for a rank that will not come, hears of nothing: it is killed.  SIGTERM would not help, it is
heard between steps.

One that ended as it was asked to (all of them drain together) leaves the others the time that
a drain may take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from router.errors import StartError
from router.pauses import Life
from router.unit import Unit

GRACE_S = 2.0
"""For the others to hear of it: the root may be late as well."""
_HEARD_OF_ANOTHER = 1
"""The status of a rank that ends because it has lost another."""
_CAUSE_WITHIN_S = 0.5
"""For that other's own end to reach the root: its connections are closed before."""


class RankSet:
    """Owns no process: its units do."""

    name = "the ranks"

    def __init__(
        self, units: Sequence[Unit], clock_s: Callable[[], float], grace_s: float = GRACE_S
    ) -> None:
        self.units = units
        self.starts = f"all {len(units)} ranks are"
        self._clock_s = clock_s
        self._grace_s = grace_s
        self._last_end = ""

    async def start(self) -> None:
        """Begin a life of all.  Raises StartError, and then none of them runs."""
        try:
            for unit in self.units:
                await unit.start()
        except StartError:
            await asyncio.gather(*(unit.ended_within(0.0) for unit in self.units))
            raise

    async def life(self) -> Life:
        """Wait until one has ended, end the others; return how the life of all went."""
        first = await self._first_to_end()
        self._last_end = first.last_end()
        steady_s = self._steady_s()
        returncode = await first.end()
        was_asked_to = returncode == 0 and steady_s is not None
        for_others = (unit.grace_s if was_asked_to else self._grace_s for unit in self.units)
        await asyncio.gather(*map(Unit.ended_within, self.units, for_others))
        return Life(returncode, steady_s)

    def last_end(self) -> str:
        """Which one ended first, and how."""
        return self._last_end

    def between_lives(self) -> None:
        """What follows the end of each."""
        for unit in self.units:
            unit.between_lives()

    async def stop(self) -> None:
        """All are told at once: who has drained keeps the others company until all have."""
        await asyncio.gather(*(unit.stop() for unit in self.units))

    async def _first_to_end(self) -> Unit:
        """Of several that end in one moment, rather the cause than who heard of it."""
        ends = {asyncio.create_task(unit.end()): unit for unit in self.units}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not _causes(done):
                done |= await _until_a_cause(ends.keys() - done)
        finally:
            for end in ends:
                end.cancel()
        return ends[min(_causes(done) or done, key=lambda end: self.units.index(ends[end]))]

    def _steady_s(self) -> float | None:
        """Since the last of them was ready; None if one never was."""
        ready_s = [unit.ready_s for unit in self.units if unit.ready_s is not None]
        return self._clock_s() - max(ready_s) if len(ready_s) == len(self.units) else None


async def _until_a_cause(ends: set[asyncio.Task[int]]) -> set[asyncio.Task[int]]:
    """Return those that end before one is a cause, and it; or before the time is over."""
    done: set[asyncio.Task[int]] = set()
    with suppress(TimeoutError):
        async with asyncio.timeout(_CAUSE_WITHIN_S):
            while ends and not _causes(done):
                ended, ends = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                done |= ended
    return done


def _causes(ends: Iterable[asyncio.Task[int]]) -> list[asyncio.Task[int]]:
    """Those that did not end for another's end."""
    return [end for end in ends if end.result() != _HEARD_OF_ANOTHER]
