"""Enrolment with all that it is over, made as an earlier life of the control plane left it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from router.backends.backend import Backend
from router.backends.discovery import Discovery
from router.backends.lacks import Lacks
from router.backends.source import BackendSource
from router.control_plane.backend_health import BackendProbe
from router.control_plane.backend_membership import BackendMembership
from router.control_plane.backend_models import BackendModels
from router.control_plane.collector import Collector
from router.control_plane.engines import Engines, told_of
from router.control_plane.enrolment import Enrolment
from router.control_plane.enrolment_file import EnrolmentFile
from router.control_plane.newcomers import Newcomers
from router.control_plane.roster import Roster
from router.control_plane.table import Table
from router.instance import Instance
from shm.board import Board
from shm.group_table import GroupEntry, GroupTableWriter
from shm.load import LoadWriter


class Enrolled:
    """Enrolment, and those who follow it."""

    def __init__(
        self,
        instance: Instance,
        segments: tuple[GroupTableWriter, Board, LoadWriter],
        clients: tuple[httpx.AsyncClient, httpx.AsyncClient],
        found: Sequence[GroupEntry],
        sources: Sequence[BackendSource],
        clock_ns: Callable[[], int],
        learn: Callable[[Sequence[Backend]], None] = lambda backends: None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        `clients`: one for probes alone, and one for whatever else is asked.  `learn` hears of
        every backend before it is asked anything.

        `found` is the table that an earlier life left; what else it left is in the run folder.
        The table is published when this returns.
        """
        table, board, loads = segments
        probes, questions = clients
        self.sources = sources
        self.lacks = Lacks({}, instance.tokenizer_path)
        """Of backends that an operator adds: keys are for flags and files alone."""
        self.models = BackendModels(questions)
        self.collector = Collector(instance, board, loads, questions, clock_ns)
        self.membership = BackendMembership(
            Table(table, clock_ns, tuple(found)),
            BackendProbe(probes),
            self.models,
            clock_ns,
            found,
        )
        self.enrolment = self._made(instance, board, Discovery(questions), wall_ns, clock_ns, learn)
        self.enrolment.review()

    def _made(
        self,
        instance: Instance,
        board: Board,
        discovery: Discovery,
        wall_ns: Callable[[], int],
        clock_ns: Callable[[], int],
        learn: Callable[[Sequence[Backend]], None],
    ) -> Enrolment:
        file = EnrolmentFile(Path(instance.run_dir))
        roster, engines = _recalled(instance, file, self.sources, wall_ns)
        return Enrolment(
            roster,
            engines,
            file,
            board,
            (self.membership, self.models, self.collector),
            lambda on_found: Newcomers(discovery, on_found),
            instance.drain_timeout_s,
            clock_ns,
            learn,
        )

    async def keep(self) -> None:
        """All of it, for ever."""
        await self.enrolment.keep(self.sources)

    def close(self) -> None:
        """Publish no more."""
        self.collector.close()


def _recalled(
    instance: Instance,
    file: EnrolmentFile,
    sources: Sequence[BackendSource],
    wall_ns: Callable[[], int],
) -> tuple[Roster, Engines]:
    """
    As an earlier life left them, or as the instance was started.

    Raises EnrolmentBroken: to begin anew would give slots and epochs again that are in use.
    """
    told = told_of(instance.backends)
    roster = Roster(list(told), [source.name for source in sources])
    engines = Engines(instance.num_slots, instance.epoch, wall_ns)
    remembered = file.load()
    if remembered is not None:
        try:
            roster.recall(remembered)
            engines.recall(remembered)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise file.broken(error) from error
        return roster, engines
    for backend, groups in told.items():
        engines.begin(backend, groups)
    return roster, engines
