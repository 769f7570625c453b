"""
Traffic: seeded asks at a steady mean rate, whatever becomes of those before.

At most `max_open` clients at a time: a machine that is slow gets less, not ever more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from tests.faults.chaos.cases import Case
from tests.faults.chaos.client import Ask, Connection, Leaving
from tests.faults.chaos.reading import End, Reading

LEAVING_SHARE = 0.25
_STREAM_SHARE = 0.6
_MAX_ON_A_CONNECTION = 3


def make_ask(rng: random.Random, cases: Sequence[Case], leaving_share: float) -> Ask:
    """One request, by chance."""
    number = rng.randrange(len(cases))
    case, is_stream = cases[number], rng.random() < _STREAM_SHARE
    leaving = rng.choice(list(Leaving)) if rng.random() < leaving_share else None
    return Ask(
        number,
        case.path,
        case.bytes(is_stream=is_stream),
        is_stream,
        leaving,
        rng.randint(1, 40),
        rng.random() < 0.5,
    )


class Traffic:
    """Sends, and keeps what came of it."""

    def __init__(
        self,
        url: str,
        cases: Sequence[Case],
        seed: int,
        clock_s: Callable[[], float],
        rate: float = 16.0,
        max_open: int = 40,
        leaving_share: float = LEAVING_SHARE,
    ) -> None:
        host, _, port = url.rpartition("/")[2].rpartition(":")
        self._address = host, int(port)
        self._cases = cases
        self._rng = random.Random(f"traffic {seed}")
        self._clock_s = clock_s
        self._rate = rate
        self._leaving_share = leaving_share
        self._is_over = False
        self._free = asyncio.Semaphore(max_open)
        self._open: set[asyncio.Task[None]] = set()
        self.readings: list[tuple[Ask, Reading]] = []

    async def run(self, seconds: float) -> None:
        """Send for that long, then wait until every client has an end."""
        until_s = self._clock_s() + seconds
        while self._clock_s() < until_s and not self._is_over:
            await self._free.acquire()
            asks = [
                make_ask(self._rng, self._cases, self._leaving_share)
                for _ in range(self._rng.randint(1, _MAX_ON_A_CONNECTION))
            ]
            task = asyncio.create_task(self._session(asks))
            self._open.add(task)
            task.add_done_callback(self._ended)
            await asyncio.sleep(self._rng.expovariate(self._rate / len(asks)))
        await asyncio.gather(*self._open)

    def end(self) -> None:
        """Send nothing more."""
        self._is_over = True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._free.release()
        task.result()

    async def _session(self, asks: Sequence[Ask]) -> None:
        """One connection's requests, one after the other, as long as it is open."""
        connection = Connection(*self._address, self._clock_s)
        for ask in asks:
            reading = await connection.ask(ask)
            self.readings.append((ask, reading))
            if reading.end is not End.WHOLE or not connection.is_open:
                break
        connection.close()
