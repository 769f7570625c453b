"""
Who is a DP group: reads the leaders' cards, asks their health, keeps the group table.

A leader that is ready leaves a card in the run folder (host, port, epoch).  What
a card, a process's end, an answer or its absence makes of a group is decided in
router.control_plane.member; here the evidence is gathered and the table written.

    evidence                how soon it is noticed
    a process has ended     at once (pidfd), or at the next look
    a card                  at the next look, every 0.2 s
    /health                 every second; every 0.2 s while the group is not ready
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import httpx

from router.card import Card, CardReader
from router.control_plane import company
from router.control_plane.figures import Figures
from router.control_plane.health import Health, HealthProbe
from router.control_plane.member import (
    Member,
    asked,
    drained,
    is_silent,
    known,
    not_asked,
    presented,
    probed,
    suspected,
)
from router.control_plane.table import Table
from router.control_plane.watched_process import WatchedProcess
from router.instance import Instance
from shm.group_table import GroupEntry, GroupState, GroupTableWriter

_LOOK_PERIOD_S = 0.2
_PROBE_PERIOD_S = 1.0
_NOBODY_TO_TELL = (GroupState.STARTING, GroupState.DEAD)
_STEADY = (GroupState.READY, GroupState.DRAINING, GroupState.RELEASED)


class Membership:
    """Keeps the table true; its only writer."""

    def __init__(
        self,
        instance: Instance,
        writer: GroupTableWriter,
        client: httpx.AsyncClient,
        figures: Figures,
        clock_ns: Callable[[], int],
        found: tuple[GroupEntry, ...] = (),
    ) -> None:
        """
        `found` is the table that an earlier life of the control plane left.

        `client` is for the probes alone (see router.control_plane.health).
        """
        self._instance = instance
        self._table = Table(writer, clock_ns, found)
        self._probe = HealthProbe(client)
        self._figures = figures
        self._clock_ns = clock_ns
        self._cards = CardReader(instance)
        self._processes: dict[int, WatchedProcess] = {}
        entries = {rank: GroupEntry(rank, GroupState.STARTING) for rank in range(instance.dp_size)}
        entries |= {entry.dp_rank: entry for entry in found}
        self._members = [known(entries[dp_rank]) for dp_rank in range(instance.dp_size)]

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """The table as it is now."""
        return tuple(member.entry for member in self._published())

    async def keep(self) -> None:
        """Look at cards and ask for health, for ever."""
        probing = (self._keep_probing(dp_rank) for dp_rank in range(len(self._members)))
        await asyncio.gather(self._keep_looking(), *probing)

    async def _keep_looking(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def _keep_probing(self, dp_rank: int) -> None:
        while True:
            await self.probe(dp_rank)
            steady = self._members[dp_rank].entry.state in _STEADY
            await asyncio.sleep(_PROBE_PERIOD_S if steady else _LOOK_PERIOD_S)

    def look(self) -> None:
        """Read every card, see which processes live and whose figures are missed."""
        for dp_rank, member in enumerate(self._members):
            card = self._cards.read(dp_rank)
            alive = self._process_is_alive(dp_rank, card)
            self._members[dp_rank] = presented(member, card, process_alive=alive)
        self._keep_together()
        self._look_at_figures()
        self._publish()
        self._tell_leaving()

    async def probe(self, dp_rank: int) -> None:
        """Ask that group for its health, if it has a card."""
        member = self._members[dp_rank]
        if member.card is None:
            return
        began_ns = self._clock_ns()
        self._members[dp_rank] = asked(member, began_ns)
        health = await self._probe.ask(member.entry)
        now = self._members[dp_rank]
        if now.card is None or now.entry.epoch != member.entry.epoch:
            return
        if health is Health.UNKNOWN:
            self._members[dp_rank] = not_asked(now, began_ns)
            return
        self._members[dp_rank] = probed(now, healthy=health is Health.WELL)
        self._publish()

    def drain(self, dp_rank: int) -> GroupEntry:
        """
        Give that group no request any more, and have its process finish and end.

        Returns its entry: draining, or as it was if nobody is there to tell.

        The table says so before the process is told.  Once is enough, and twice
        is the same; an earlier life of the control plane that was ended between
        the two is made up for at the next look.  Somebody else may have told the
        process since the last look, so there is one first.
        """
        self.look()
        if self._members[dp_rank].entry.state in _NOBODY_TO_TELL:
            return self._members[dp_rank].entry
        self._members[dp_rank] = drained(self._members[dp_rank])
        self._keep_together()
        self._publish()
        self._tell_leaving()
        return self._members[dp_rank].entry

    def close(self) -> None:
        """Watch no process any more."""
        for process in self._processes.values():
            process.close()

    def _process_is_alive(self, dp_rank: int, card: Card | None) -> bool:
        """Whether the process of that card, or of the group's last one, runs."""
        watched = self._processes.get(dp_rank) if card is None else self._process(card)
        return watched is not None and watched.is_alive()

    def _process(self, card: Card) -> WatchedProcess:
        """The process of that card; it is watched until another one takes its place."""
        watched = self._processes.get(card.dp_rank)
        if watched is None or watched.process != card.process:
            if watched is not None:
                watched.close()
            watched = WatchedProcess(card.process, self.look)
            self._processes[card.dp_rank] = watched
        return watched

    def _look_at_figures(self) -> None:
        """The figures are read only if a group has not answered for long: it is much to read."""
        now_ns = self._clock_ns()
        silent = [m.entry.dp_rank for m in self._members if is_silent(m, now_ns)]
        ages_s = self._figures.report_ages_s(self.groups) if silent else None
        if ages_s is None:
            return
        for dp_rank in silent:
            if ages_s.get(dp_rank, float("inf")) > self._instance.max_load_age_s:
                self._members[dp_rank] = suspected(self._members[dp_rank])

    def _tell_leaving(self) -> None:
        for dp_rank, member in enumerate(self._members):
            if member.is_to_be_told:
                self._processes[dp_rank].terminate()
                self._members[dp_rank] = replace(member, was_told=True)

    def _keep_together(self) -> None:
        if self._instance.ranks_are_a_set:
            self._members = company.drained_together(self._members)

    def _published(self) -> list[Member]:
        return company.published(self._members) if self._instance.ranks_are_a_set else self._members

    def _publish(self) -> None:
        self._table.publish(self._published())
