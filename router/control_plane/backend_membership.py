"""
Which groups of other people's engines serve: asks each engine, keeps the group table.

    state      answers    answers     no connection, or    no answer    none for
               well       otherwise   it breaks: twice     for 2 s      30 s
    starting   ready      -           -                    -            -
    ready      -          suspect     dead                 suspect      dead
    suspect    ready      -           dead                 -            dead
    draining   -          -           dead                 -            -
    dead       ready      -           -                    -            -

An engine is asked once for all its ranks, every second; every 0.2 s while nothing is under
way there, so that it serves soon.  It has no card and no process that could be
watched, and may be slow to answer while it works: so silence alone makes it suspect
for half a minute before it counts as death, which ends what it has under way.  An answer
never ends it, whatever it says: an engine that is busy or shuts down may refuse what is new
and finish what it has.

Draining is for as long as the engine lives: one that was restarted meanwhile, and so has refused
for a while, serves again; but for one whose engine leaves (see router.control_plane.engines),
which drains until its slots are freed, or it is wanted again.

A group's epoch is that of its engine's stay, whatever becomes of its processes: an epoch is there
to tell counters of one from another's, and a backend has none.  Requests that die
with an engine end one by one, and take their books with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from router.control_plane.backend_health import BackendProbe
from router.control_plane.backend_models import BackendModels
from router.control_plane.engines import Engine
from router.control_plane.health import Health
from router.control_plane.member import (
    FAILURES_TO_DEATH,
    Member,
    asked,
    drained,
    is_silent,
    known,
    not_asked,
    probed,
    suspected,
    undrained,
)
from router.control_plane.table import Table
from shm.group_table import GroupEntry, GroupState

_LOOK_PERIOD_S = 0.2
_PROBE_PERIOD_S = 1.0
_DEAD_AFTER_NS = 30_000_000_000
_MISSED = (GroupState.READY, GroupState.SUSPECT)
_WITHOUT_REQUESTS = (GroupState.STARTING, GroupState.DEAD)


class BackendMembership:
    """Keeps the table true; the only one who has it published."""

    def __init__(
        self,
        table: Table,
        probe: BackendProbe,
        models: BackendModels,
        clock_ns: Callable[[], int],
        found: Iterable[GroupEntry] = (),
    ) -> None:
        """`found` is the table that an earlier life of the control plane left."""
        self._table = table
        self._probe = probe
        self._models = models
        self._clock_ns = clock_ns
        self._found = {(entry.dp_rank, entry.epoch): entry for entry in found}
        """Rows whose engines were not told of yet."""
        self._members: dict[int, Member] = {}
        """By dp_rank."""
        self._engines: dict[int, Engine] = {}
        """By epoch."""

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """The table as it is now: slots that somebody has, in order."""
        return tuple(self._members[dp_rank].entry for dp_rank in sorted(self._members))

    def follow(self, engines: Iterable[Engine]) -> None:
        """These have slots, and no others; who leaves drains, and who stays after all serves."""
        before, now = self._engines, {engine.epoch: engine for engine in engines}
        self._engines = now
        for epoch in before.keys() - now.keys():
            for dp_rank in before[epoch].slots:
                del self._members[dp_rank]
        for epoch, engine in now.items():
            for number, dp_rank in enumerate(engine.slots):
                if epoch not in before:
                    self._members[dp_rank] = self._newcomer(engine, number)
                if engine.is_returning:
                    self._members[dp_rank] = undrained(self._members[dp_rank])
                if engine.is_leaving:
                    self._members[dp_rank] = drained(self._members[dp_rank])
        self._found.clear()
        self._weigh()
        self._publish()

    async def keep(self) -> None:
        """Notice who is silent, for ever."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def keep_probing(self, epoch: int) -> None:
        """Ask that engine for its health, for ever."""
        while epoch in self._engines:
            await self.probe(epoch)
            if epoch in self._engines:
                await asyncio.sleep(self.pause_s(epoch))

    def look(self) -> None:
        """Time has passed: whoever is silent is suspect, and dead when it was for too long."""
        now_ns = self._clock_ns()
        for dp_rank, member in self._members.items():
            if is_silent(member, now_ns):
                self._members[dp_rank] = _missed(member, now_ns)
        for engine in self._engines.values():
            names = self._models.names(engine.url)
            for dp_rank in engine.slots:
                self._members[dp_rank] = _serving(self._members[dp_rank], names)
        self._publish()

    async def probe(self, epoch: int) -> None:
        """Ask that engine for its health, for all of its ranks."""
        began_ns, ranks = self._clock_ns(), self._engines[epoch].slots
        for dp_rank in ranks:
            self._members[dp_rank] = asked(self._members[dp_rank], began_ns)
        health = await self._probe.ask(self._members[ranks[0]].entry)
        if epoch not in self._engines:  # it has left meanwhile
            return
        for dp_rank in ranks:
            after = _after(self._members[dp_rank], health, began_ns)
            self._members[dp_rank] = drained(after) if self._engines[epoch].is_leaving else after
        self._publish()

    def pause_s(self, epoch: int) -> float:
        """How long after a probe that engine is asked again."""
        state = self._members[self._engines[epoch].slots[0]].entry.state
        return _LOOK_PERIOD_S if state in _WITHOUT_REQUESTS else _PROBE_PERIOD_S

    def drain(self, dp_rank: int) -> GroupEntry:
        """
        Give that group no request any more; what it has, it finishes.

        Its engine is its operator's to restart, who may do so then.
        """
        if self._members[dp_rank].entry.state in _MISSED:
            self._members[dp_rank] = drained(self._members[dp_rank])
            self._publish()
        return self._members[dp_rank].entry

    def undrain(self, dp_rank: int) -> GroupEntry:
        """Give that group requests again, from its next good answer on; its engine stays."""
        self._members[dp_rank] = undrained(self._members[dp_rank])
        self._publish()
        return self._members[dp_rank].entry

    def close(self) -> None:
        """There is nobody that is watched."""

    def _newcomer(self, engine: Engine, number: int) -> Member:
        """As it was in the table, if an earlier life of the control plane knew it."""
        first = _first_entry(engine, number)
        found = self._found.get((first.dp_rank, first.epoch))
        return known(first if found is None else found)

    def _weigh(self) -> None:
        """What each token counts, by all weights that there are."""
        strongest = max((engine.backend.weight for engine in self._engines.values()), default=1.0)
        for engine in self._engines.values():
            for dp_rank in engine.slots:
                member, factor = self._members[dp_rank], strongest / engine.backend.weight
                entry = replace(member.entry, load_factor=factor)
                self._members[dp_rank] = replace(member, entry=entry)

    def _publish(self) -> None:
        self._table.publish([self._members[dp_rank] for dp_rank in sorted(self._members)])


def _first_entry(engine: Engine, number: int) -> GroupEntry:
    group = engine.groups[number]
    return GroupEntry(
        engine.slots[number],
        GroupState.STARTING,
        engine.epoch,
        group.host,
        group.port,
        engine=group.kind.value,
        engine_rank=group.engine_rank,
        tls=group.tls,
        kv_events=group.kv_events,
        kv_replay=group.kv_replay,
    )


def _serving(member: Member, names: tuple[str, ...]) -> Member:
    """The member of that list of models; an empty one takes none away that was known."""
    if not names or names == member.entry.models:
        return member
    return replace(member, entry=replace(member.entry, models=names))


def _after(member: Member, health: Health, began_ns: int) -> Member:
    """The member after a probe that began at that time."""
    match health:
        case Health.SILENT:
            return member
        case Health.UNKNOWN:
            return not_asked(member, began_ns)
        case Health.REFUSING:
            return suspected(replace(member, num_failures=0, asked_ns=None))
    now = probed(member, healthy=health is Health.WELL)
    if now.is_leaving and now.num_failures >= FAILURES_TO_DEATH:
        return replace(now, is_leaving=False).in_state(GroupState.DEAD)
    return now


def _missed(member: Member, now_ns: int) -> Member:
    """The member that has not answered for a while."""
    asked_ns = member.asked_ns
    is_over = asked_ns is not None and now_ns - asked_ns >= _DEAD_AFTER_NS
    if is_over and member.entry.state in _MISSED:
        return member.in_state(GroupState.DEAD)
    return suspected(member)
