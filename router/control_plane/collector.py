"""
Reads the load of backends, and writes into the load segment what the books cannot know.

A backend's report tells what it holds *beyond* the books of the front doors, because they
are newer than any reading: see router.backends.readings.beyond, and
docs/decisions/0013-books-of-backends.md.

Who writes: the control plane, alone; the reports of workers of ours are their publisher's.
If it dies here, reports grow old, and after --max-load-age the books stand alone.
A reading that is not used is replaced by one of nothing beyond the books, at once: a front
door would go on to count the last one until it is old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import httpx

from balancer.ledger import Book
from router.backends.inquiry import NoAnswer, inquire
from router.backends.readings.adapters import ADAPTERS, Adapter
from router.backends.readings.beyond import Beyond
from router.backends.readings.reading import (
    READ_PERIOD_S,
    Condition,
    Reading,
    ReadingError,
    checked,
    combined,
    malformed,
    missing,
)
from router.control_plane.engines import Engine
from router.instance import Instance
from shm.board import Board
from shm.load import Accepted, LoadReport, LoadWriter

_log = logging.getLogger("levelhead.control_plane")
_NOTE_PERIOD_S = 0.2
_ANSWER_LIMIT_S = 2.0
_S_PER_NS = 1e-9
_UNLIMITED = 1 << 62
_UNKNOWN = Reading(0, 0, 0, 0, 0)
_NONE = Accepted(0, 0, 0, 0, 0)


class Collector:
    """Asks every engine that tells something; owns the reports of all groups."""

    def __init__(
        self,
        instance: Instance,
        board: Board,
        writer: LoadWriter,
        client: httpx.AsyncClient,
        clock_ns: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`client` is for this alone."""
        self._instance = instance
        self._board = board
        self._writer = writer
        self._client = client
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._answer_limit_s = min(_ANSWER_LIMIT_S, instance.max_load_age_s - READ_PERIOD_S)
        self.beyond: dict[int, Beyond] = {}
        """What is known of each group that there is, by dp_rank."""
        self._reports: dict[int, LoadReport] = {}
        self._engines: dict[int, Engine] = {}
        """By epoch."""
        self._failed: set[int] = set()
        """Where a mistake of ours was met, and told; by epoch."""

    def follow(self, engines: Iterable[Engine]) -> None:
        """These are there, and no others: of who comes nothing is known, of who left no more."""
        now = {engine.epoch: engine for engine in engines}
        for epoch in self._engines.keys() - now.keys():
            for dp_rank in self._engines[epoch].slots:
                self.beyond.pop(dp_rank, None)
                self._reports.pop(dp_rank, None)
        for epoch in now.keys() - self._engines.keys():
            self.beyond |= {dp_rank: Beyond() for dp_rank in now[epoch].slots}
        has_left = bool(self._engines.keys() - now.keys())
        self._engines = now
        self._failed &= now.keys()
        if has_left:
            self._publish()

    async def keep(self) -> None:
        """Note the books, for ever."""
        while True:
            self.note()
            await self._sleep(_NOTE_PERIOD_S)

    async def keep_reading(self, epoch: int) -> None:
        """Read that engine, for ever; return if it tells nothing."""
        if self._engines[epoch].kind not in ADAPTERS:
            return
        while epoch in self._engines:
            began_ns = self._clock_ns()
            await self.read(epoch)
            took_s = (self._clock_ns() - began_ns) * _S_PER_NS
            await self._sleep(max(0.0, READ_PERIOD_S - took_s))

    async def read(self, epoch: int) -> None:
        """Ask that engine once, and publish what it says of its groups."""
        engine = self._engines[epoch]
        began_ns, before = self._clock_ns(), [self._book(each, epoch) for each in engine.slots]
        try:
            told = await self._readings(engine.url, ADAPTERS[engine.kind])
        except Exception as error:  # noqa: BLE001  whatever it answers, the others are read
            if epoch not in self._failed:
                self._failed.add(epoch)
                _log.exception("%s gives an answer that cannot be read", engine.url)
            told = malformed(f"{type(error).__name__}: {error}")
        if epoch not in self._engines:  # it has left meanwhile, and others may have its slots
            return
        for dp_rank, group, book in zip(engine.slots, engine.groups, before, strict=True):
            reading = _of_rank(told, group.engine_rank)
            self._take(dp_rank, epoch, reading, book, began_ns)
        self._publish()

    def note(self) -> None:
        """The books as they are now, which a reading that comes may show."""
        now_ns = self._clock_ns()
        for epoch, engine in self._engines.items():
            for dp_rank in engine.slots if engine.kind in ADAPTERS else ():
                self.beyond[dp_rank].note(self._book(dp_rank, epoch), now_ns)

    def _publish(self) -> None:
        self._writer.publish(self._reports.values(), self._clock_ns())

    def close(self) -> None:
        """Publish no more."""
        self._writer.close()

    async def _readings(self, url: str, adapter: Adapter) -> dict[int, Reading] | ReadingError:
        answers = await asyncio.gather(*(self._get(url + path) for path in adapter.paths))
        try:
            return adapter.readings(dict(zip(adapter.paths, answers, strict=True)))
        except ReadingError as error:
            return error

    async def _get(self, url: str) -> bytes | None:
        try:
            answer = await inquire(self._client, url, self._answer_limit_s)
        except NoAnswer:
            return None
        return answer.body if answer.is_good else None

    def _take(
        self, dp_rank: int, epoch: int, told: Reading | ReadingError, before: Book, began_ns: int
    ) -> None:
        group = self.beyond[dp_rank]
        was, now_ns = group.condition, self._clock_ns()
        beyond = group.observe(told, before, self._book(dp_rank, epoch), now_ns)
        _tell(dp_rank, was, group.condition, told)
        reading = group.reading or _UNKNOWN
        held = beyond or Book(0, 0)
        self._reports[dp_rank] = self._report(dp_rank, epoch, began_ns, held, reading)

    def _report(
        self, dp_rank: int, epoch: int, began_ns: int, beyond: Book, reading: Reading
    ) -> LoadReport:
        """Sampled when it was asked for: no older, as far as anybody here can tell."""
        return LoadReport(
            dp_rank=dp_rank,
            group_epoch=epoch,
            sampled_ns=began_ns,
            holding_tokens=beyond.tokens,
            running_requests=beyond.requests,
            waiting_requests=0,
            waiting_uncached_tokens=0,
            kv_used_tokens=reading.kv_used_tokens,
            kv_capacity_tokens=reading.kv_capacity_tokens,
            max_requests=_UNLIMITED,
            num_steps=0,
            step_time_ns=0,
            step_prefill_tokens=0,
            computing_tokens=0,
            accepted=(_NONE,) * self._instance.num_front_doors,
        )

    def _book(self, dp_rank: int, epoch: int) -> Book:
        """What all front doors have open on the group, as noted on the board."""
        cells = (self._board.read(row, dp_rank) for row in range(self._board.num_rows))
        mine = [cell for cell in cells if cell.group_epoch == epoch]
        tokens = sum(cell.book_tokens for cell in mine)
        return Book(tokens, sum(cell.book_requests for cell in mine))


def _of_rank(told: dict[int, Reading] | ReadingError, rank: int | None) -> Reading | ReadingError:
    """That rank's; where the engine is one group, all of its ranks together."""
    if isinstance(told, ReadingError):
        return told
    try:
        if rank is None:
            return checked(combined(told.values()))
        return checked(told[rank]) if rank in told else missing(f"it tells nothing of rank {rank}")
    except ReadingError as error:
        return error


def _tell(
    dp_rank: int, was: Condition | None, now: Condition | None, told: Reading | ReadingError
) -> None:
    """One line at each transition."""
    if now is was:
        return
    if now is None:
        _log.info("DP group %d: its own figures count again", dp_rank)
    else:
        _log.warning(
            "DP group %d: its own figures are not used, books stand alone: %s (%s)",
            dp_rank, now, told,
        )  # fmt: skip
