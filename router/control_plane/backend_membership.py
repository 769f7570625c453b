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
for a while, serves again.

A group's epoch is that of the instance, whatever becomes of the engine: an epoch is there to
tell counters of one life from another's, and a backend has none.  Requests that die
with an engine end one by one, and take their books with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from router.backends.backend import BackendGroup
from router.control_plane.backend_health import BackendProbe
from router.control_plane.backend_models import BackendModels
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
)
from router.control_plane.table import Table
from router.instance import Instance
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
        instance: Instance,
        table: Table,
        probe: BackendProbe,
        models: BackendModels,
        clock_ns: Callable[[], int],
        found: tuple[GroupEntry, ...] = (),
    ) -> None:
        """`found` is the table that an earlier life of the control plane left."""
        self._table = table
        self._probe = probe
        self._models = models
        self._clock_ns = clock_ns
        entries = {
            dp_rank: _first_entry(dp_rank, group, instance)
            for dp_rank, group in enumerate(instance.backends)
        }
        entries |= {entry.dp_rank: entry for entry in found}
        self._members = [known(entries[dp_rank]) for dp_rank in sorted(entries)]
        self._engines: dict[str, list[int]] = {}
        """dp_ranks of each engine, by its URL."""
        for dp_rank, group in enumerate(instance.backends):
            self._engines.setdefault(group.url, []).append(dp_rank)

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """The table as it is now."""
        return tuple(member.entry for member in self._members)

    async def keep(self) -> None:
        """Ask every engine for its health, and notice who is silent, for ever."""
        self._table.publish(self._members)
        probing = (self._keep_probing(url) for url in self._engines)
        await asyncio.gather(self._keep_looking(), *probing)

    def look(self) -> None:
        """Time has passed: whoever is silent is suspect, and dead when it was for too long."""
        now_ns = self._clock_ns()
        for dp_rank, member in enumerate(self._members):
            if is_silent(member, now_ns):
                self._members[dp_rank] = _missed(member, now_ns)
        for url, ranks in self._engines.items():
            names = self._models.names(url)
            for dp_rank in ranks:
                self._members[dp_rank] = _serving(self._members[dp_rank], names)
        self._table.publish(self._members)

    async def probe(self, url: str) -> None:
        """Ask the engine there for its health, for all of its ranks."""
        began_ns, ranks = self._clock_ns(), self._engines[url]
        for dp_rank in ranks:
            self._members[dp_rank] = asked(self._members[dp_rank], began_ns)
        health = await self._probe.ask(self._members[ranks[0]].entry)
        for dp_rank in ranks:
            self._members[dp_rank] = _after(self._members[dp_rank], health, began_ns)
        self._table.publish(self._members)

    def pause_s(self, url: str) -> float:
        """How long after a probe the engine there is asked again."""
        state = self._members[self._engines[url][0]].entry.state
        return _LOOK_PERIOD_S if state in _WITHOUT_REQUESTS else _PROBE_PERIOD_S

    def drain(self, dp_rank: int) -> GroupEntry:
        """
        Give that group no request any more; what it has, it finishes.

        Its engine is its operator's to restart, who may do so then.
        """
        if self._members[dp_rank].entry.state in _MISSED:
            self._members[dp_rank] = drained(self._members[dp_rank])
            self._table.publish(self._members)
        return self._members[dp_rank].entry

    def close(self) -> None:
        """There is nobody that is watched."""

    async def _keep_looking(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def _keep_probing(self, url: str) -> None:
        while True:
            await self.probe(url)
            await asyncio.sleep(self.pause_s(url))


def _first_entry(dp_rank: int, group: BackendGroup, instance: Instance) -> GroupEntry:
    strongest = max(each.weight for each in instance.backends)
    return GroupEntry(
        dp_rank,
        GroupState.STARTING,
        instance.epoch,
        group.host,
        group.port,
        engine=group.kind.value,
        engine_rank=group.engine_rank,
        load_factor=strongest / group.weight,
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
