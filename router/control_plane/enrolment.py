"""
Enrolment: makes those that have slots the backends that are wanted.

    roster ──► plan ──► newcomers: found out, then given slots
      ▲          └────► those not wanted: they drain, and their slots are freed when nothing of
      │                 ours is open there, or after --drain-timeout-s
      ├── sources, each telling all that it knows
      └── an operator

Decided is in plan; here it is done, in this order: what must not be forgotten is saved, then
the table is published, then tasks begin and end.  What is open on a slot that is freed is
cut by nobody: it is in the epoch of whoever had the slot (balancer.controller).

Who calls: the event loop of the control plane alone, and nothing here waits between a decision
and what follows from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from balancer.in_flight import in_flight
from router.backends.backend import Backend
from router.backends.source import BackendSource
from router.control_plane.backend_membership import BackendMembership
from router.control_plane.backend_models import BackendModels
from router.control_plane.collector import Collector
from router.control_plane.engines import Engine, Engines
from router.control_plane.enrolment_file import EnrolmentFile
from router.control_plane.keyed_tasks import KeyedTasks
from router.control_plane.newcomers import Newcomers
from router.control_plane.plan import plan
from router.control_plane.roster import Roster
from router.errors import EnrolmentUnsaved, NoFreeSlot
from shm.board import Board

_log = logging.getLogger("levelhead.control_plane")
_LOOK_PERIOD_S = 0.2
_SOURCE_PAUSE_S = 5.0
_NS = 1e-9


class Enrolment:
    """Owns roster and engines, and their file; tells all others who is there."""

    def __init__(
        self,
        roster: Roster,
        engines: Engines,
        file: EnrolmentFile,
        board: Board,
        parts: tuple[BackendMembership, BackendModels, Collector],
        newcomers: Callable[[Callable[[], None]], Newcomers],
        drain_timeout_s: float,
        clock_ns: Callable[[], int],
        learn: Callable[[Sequence[Backend]], None],
    ) -> None:
        """
        `parts` follow who is there.  What an earlier life left was recalled already.

        `learn` hears of every backend before anybody asks it anything.
        """
        self.roster = roster
        self.engines = engines
        self._file = file
        self._board = board
        self._membership, self._models, self._collector = parts
        self.newcomers = newcomers(self.review)
        self._drain_timeout_s = drain_timeout_s
        self._clock_ns = clock_ns
        self._learn = learn
        self._tasks = KeyedTasks()
        """Of each engine, by its epoch."""
        self._unsaved: EnrolmentUnsaved | None = None
        """Why what was decided last is not done."""

    async def keep(self, sources: Sequence[BackendSource] = ()) -> None:
        """Do it, for ever."""
        async with asyncio.TaskGroup() as together:
            together.create_task(self._tasks.keep())
            together.create_task(self.newcomers.tasks.keep())
            together.create_task(self._membership.keep())
            together.create_task(self._collector.keep())
            together.create_task(self._keep_looking())
            for source in sources:
                together.create_task(self._keep_listening(source))

    def review(self) -> None:
        """Somebody wants something else, was found, or may be given a slot at last."""
        wanted = self.roster.wanted
        there = [engine.backend for engine in self.engines]
        self._learn(
            [*there, *(each.backend for each in wanted.values())]
        )  # what is said now counts
        found = plan(wanted, self.engines, self._clock_ns())
        for engine in found.changed:
            self._tell(engine)
            self.engines.put(engine)
        missing = {backend.url: backend for backend in found.missing}
        self.newcomers.look_for(found.missing)
        for newcomer in self.newcomers.found:
            backend = missing[newcomer.backend.url]
            try:
                self._welcome(self.engines.admit(backend, newcomer.groups))
            except NoFreeSlot as error:
                self.newcomers.trouble(backend.url, str(error))
            else:
                del missing[backend.url]
        self.newcomers.look_for(list(missing.values()))
        self._take_effect()

    def look(self) -> None:
        """Time has passed: whoever leaves, and has nothing of ours open, has left."""
        over = [engine for engine in self.engines if engine.is_leaving and self._is_over(engine)]
        if over:
            self.free(over)

    def free(self, engines: Sequence[Engine]) -> None:
        """Their slots are given up, whatever is open there; then others may get them."""
        for engine in engines:
            self.engines.free(engine)
        self.review()

    def num_open(self, engine: Engine) -> int:
        """Requests of ours that it has, as far as front doors have noted."""
        return sum(
            in_flight(
                engine.epoch,
                None,
                [self._board.read(row, dp_rank) for row in range(self._board.num_rows)],
            ).requests
            for dp_rank in engine.slots
        )

    def _is_over(self, engine: Engine) -> bool:
        num_open = self.num_open(engine)
        if not num_open:
            return True
        assert engine.leaving_ns is not None
        is_late = (self._clock_ns() - engine.leaving_ns) * _NS >= self._drain_timeout_s
        if is_late:
            _log.warning(
                "%s leaves with %d requests open after %g s: they run out where they are",
                engine.url, num_open, self._drain_timeout_s,
            )  # fmt: skip
        return is_late

    def _take_effect(self) -> None:
        """Save it, then tell everybody, then begin and end what is done for each engine."""
        self.engines.check_integrity()
        self._save()
        engines = list(self.engines)
        self._models.follow(engines)
        self._collector.follow(engines)
        self._membership.follow(engines)
        self._have_returned(engines)
        present = {engine.epoch for engine in engines}
        for epoch in self._tasks.keys - present:
            self._tasks.stop(epoch)
        for engine in engines:
            if engine.epoch not in self._tasks:
                self._tasks.start(engine.epoch, partial(self._tend, engine))

    def _have_returned(self, engines: Sequence[Engine]) -> None:
        """
        The table tells of those that are wanted again.

        Had it died before, the next life would find them draining there, and could not tell
        that from an operator's drain, which stands.
        """
        returning = [engine for engine in engines if engine.is_returning]
        for engine in returning:
            self.engines.put(replace(engine, is_returning=False))
        if returning:
            self._save()

    def _save(self) -> None:
        """What cannot be saved may not be done: this life ends, the next has what was saved."""
        try:
            self._file.save({**self.roster.remembered(), **self.engines.remembered()})
        except EnrolmentUnsaved as error:
            self._unsaved = error
            raise

    async def _tend(self, engine: Engine) -> None:
        """All that is asked of an engine while it is there."""
        async with asyncio.TaskGroup() as together:
            together.create_task(self._membership.keep_probing(engine.epoch))
            together.create_task(self._models.keep_asking(engine.url))
            together.create_task(self._collector.keep_reading(engine.epoch))

    async def _keep_looking(self) -> None:
        while self._unsaved is None:
            self.look()
            await asyncio.sleep(_LOOK_PERIOD_S)
        raise self._unsaved

    async def _keep_listening(self, source: BackendSource) -> None:
        """A source that fails is begun anew; what it told last stands."""

        def tell(backends: Sequence[Backend]) -> None:
            self.roster.tell(source.name, backends)
            self.review()

        while True:
            try:
                await source.keep(tell)
            except Exception:  # noqa: BLE001  one of several, and the others go on
                _log.exception("%s has failed; it is begun anew", source.name)
            await asyncio.sleep(_SOURCE_PAUSE_S)

    def _welcome(self, engine: Engine) -> None:
        ranks = zip(engine.slots, engine.groups, strict=True)
        for dp_rank, group in ranks:
            rank = "" if group.engine_rank is None else f", its DP rank {group.engine_rank}"
            _log.info("DP group %d is %s at %s%s", dp_rank, group.kind, group.url, rank)

    def _tell(self, engine: Engine) -> None:
        before = self.engines.of_epoch(engine.epoch)
        assert before is not None
        if engine.is_leaving:
            _log.info("%s is not wanted any more: it drains", engine.url)
        elif before.is_leaving:
            _log.info("%s is wanted again: it stays", engine.url)
        else:
            _log.info("%s has weight %g now", engine.url, engine.backend.weight)
