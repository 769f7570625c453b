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
from collections.abc import Awaitable, Callable

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
    malformed,
    missing,
)
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
        self.beyond = [Beyond() for _ in instance.backends]
        """What is known of each group, by dp_rank."""
        self._reports: dict[int, LoadReport] = {}
        self._engines: dict[str, list[int]] = {}
        """dp_ranks by URL."""
        self._failed: set[str] = set()
        """Where a mistake of ours was met, and told."""
        for dp_rank, group in enumerate(instance.backends):
            if group.kind in ADAPTERS:
                self._engines.setdefault(group.url, []).append(dp_rank)

    async def keep(self) -> None:
        """Read every engine, for ever; where there is none to read, return."""
        if self._engines:
            await asyncio.gather(self._keep_noting(), *map(self._keep_reading, self._engines))

    async def read(self, url: str) -> None:
        """Ask the engine there once, and publish what that says of its groups."""
        ranks = self._engines[url]
        began_ns, before = self._clock_ns(), [self._book(dp_rank) for dp_rank in ranks]
        try:
            adapter = ADAPTERS[self._instance.backends[ranks[0]].kind]
            told = await self._readings(url, adapter)
        except Exception as error:  # noqa: BLE001  whatever it answers, the others are read
            if url not in self._failed:
                self._failed.add(url)
                _log.exception("%s gives an answer that cannot be read", url)
            told = malformed(f"{type(error).__name__}: {error}")
        for dp_rank, book in zip(ranks, before, strict=True):
            self._take(dp_rank, _of_rank(told, self._engine_rank(dp_rank)), book, began_ns)
        self._writer.publish(self._reports.values(), self._clock_ns())

    def note(self) -> None:
        """The books as they are now, which a reading that comes may show."""
        now_ns = self._clock_ns()
        for dp_rank in (each for ranks in self._engines.values() for each in ranks):
            self.beyond[dp_rank].note(self._book(dp_rank), now_ns)

    def close(self) -> None:
        """Publish no more."""
        self._writer.close()

    async def _keep_reading(self, url: str) -> None:
        while True:
            began_ns = self._clock_ns()
            await self.read(url)
            took_s = (self._clock_ns() - began_ns) * _S_PER_NS
            await self._sleep(max(0.0, READ_PERIOD_S - took_s))

    async def _keep_noting(self) -> None:
        while True:
            self.note()
            await self._sleep(_NOTE_PERIOD_S)

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
        self, dp_rank: int, told: Reading | ReadingError, before: Book, began_ns: int
    ) -> None:
        group = self.beyond[dp_rank]
        was, now_ns = group.condition, self._clock_ns()
        beyond = group.observe(told, before, self._book(dp_rank), now_ns)
        _tell(dp_rank, was, group.condition, told)
        reading = group.reading or _UNKNOWN
        self._reports[dp_rank] = self._report(dp_rank, began_ns, beyond or Book(0, 0), reading)

    def _report(self, dp_rank: int, began_ns: int, beyond: Book, reading: Reading) -> LoadReport:
        """Sampled when it was asked for: no older, as far as anybody here can tell."""
        return LoadReport(
            dp_rank=dp_rank,
            group_epoch=self._instance.epoch,
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

    def _book(self, dp_rank: int) -> Book:
        """What all front doors have open on the group, as noted on the board."""
        cells = (self._board.read(row, dp_rank) for row in range(self._board.num_rows))
        mine = [cell for cell in cells if cell.group_epoch == self._instance.epoch]
        tokens = sum(cell.book_tokens for cell in mine)
        return Book(tokens, sum(cell.book_requests for cell in mine))

    def _engine_rank(self, dp_rank: int) -> int | None:
        return self._instance.backends[dp_rank].engine_rank


def _of_rank(told: dict[int, Reading] | ReadingError, rank: int | None) -> Reading | ReadingError:
    """That rank's; where the engine is one group, all of its ranks together."""
    if isinstance(told, ReadingError):
        return told
    try:
        if rank is None:
            return checked(Reading(*(sum(column) for column in zip(*told.values(), strict=True))))
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
