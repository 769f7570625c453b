"""
Who is a DP group: reads the leaders' cards, asks their health, keeps the group table.

A leader that is ready leaves a card in the run folder (host, port, epoch).  A
group is ready when its card's process lives and `/health` answers, and dead
when either stops to be so.  A new card with a later epoch is a new life.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import httpx
import orjson

from router.instance import Instance
from shm.group_table import GroupEntry, GroupState, GroupTableWriter

_log = logging.getLogger("levelhead.control_plane")
_LOOK_PERIOD_S = 0.2
_PROBE_PERIOD_S = 1.0
_PROBE_TIMEOUT_S = 5.0  # a step that keeps a leader's event loop waiting is no death
_PROBES_TO_DEATH = 2


@dataclass(frozen=True, slots=True)
class Card:
    """What a leader says of itself when it is ready."""

    dp_rank: int
    epoch: int
    host: str
    port: int
    pid: int
    model: str
    max_model_len: int
    tokenizer_dir: str | None = None
    page_size: int = 0
    kv_capacity_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A group with what is known of its health."""

    entry: GroupEntry
    card: Card | None = None
    failed_probes: int = 0


def presented(member: Member, card: Card | None, *, process_alive: bool) -> Member:
    """The member after a look at its card and its process."""
    if card is not None and card.epoch > member.entry.epoch and process_alive:
        entry = GroupEntry(
            member.entry.dp_rank,
            GroupState.STARTING,
            card.epoch,
            card.host,
            card.port,
            card.model,
            card.max_model_len,
            card.tokenizer_dir,
            card.page_size,
        )
        return Member(entry, card)
    if card is not None and card.epoch == member.entry.epoch and process_alive:
        return replace(member, card=card)
    if member.entry.epoch and member.entry.state is not GroupState.DEAD:
        return replace(member, entry=replace(member.entry, state=GroupState.DEAD), card=None)
    return member


def probed(member: Member, *, healthy: bool) -> Member:
    """The member after `/health` answered, or did not."""
    if healthy:
        ready = member.entry.state in (GroupState.STARTING, GroupState.DEAD)
        state = GroupState.READY if ready else member.entry.state
        return Member(replace(member.entry, state=state), member.card)
    failed = member.failed_probes + 1
    dead = failed >= _PROBES_TO_DEATH and member.entry.state is not GroupState.STARTING
    state = GroupState.DEAD if dead else member.entry.state
    return Member(replace(member.entry, state=state), member.card, failed)


class Membership:
    """Keeps the table true; its only writer."""

    def __init__(
        self,
        instance: Instance,
        writer: GroupTableWriter,
        client: httpx.AsyncClient,
        clock_ns: Callable[[], int],
        known: tuple[GroupEntry, ...] = (),
    ) -> None:
        """`known` is the table that an earlier life of the control plane left."""
        self._instance = instance
        self._writer = writer
        self._client = client
        self._clock_ns = clock_ns
        entries = {rank: GroupEntry(rank, GroupState.STARTING) for rank in range(instance.dp_size)}
        entries |= {entry.dp_rank: entry for entry in known}
        self._members = [Member(entries[dp_rank]) for dp_rank in range(instance.dp_size)]
        self._published = known

    @property
    def groups(self) -> tuple[GroupEntry, ...]:
        """The table as it is now."""
        return tuple(member.entry for member in self._members)

    async def keep(self) -> None:
        """Look at cards often, probe now and then, for ever."""
        await asyncio.gather(self._keep_looking(), self._keep_probing())

    async def _keep_looking(self) -> None:
        while True:
            if self.look():
                await self.probe_all()
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def _keep_probing(self) -> None:
        while True:
            await self.probe_all()
            await asyncio.sleep(_PROBE_PERIOD_S)

    def look(self) -> bool:
        """Read every card; whether a group has come that must be probed."""
        for dp_rank, member in enumerate(self._members):
            card = _read_card(self._instance, dp_rank)
            alive = card is not None and _is_running(card.pid)
            self._members[dp_rank] = presented(member, card, process_alive=alive)
        self._publish()
        return any(
            m.card is not None and m.entry.state is GroupState.STARTING for m in self._members
        )

    async def probe_all(self) -> None:
        """Ask every group that has a card for its health, all at once."""
        await asyncio.gather(*(self._probe(m) for m in self._members if m.card is not None))
        self._publish()

    async def _probe(self, member: Member) -> None:
        entry = member.entry
        healthy = await self._is_healthy(entry)
        now = self._members[entry.dp_rank]
        if now.card is not None and now.entry.epoch == entry.epoch:
            self._members[entry.dp_rank] = probed(now, healthy=healthy)

    async def _is_healthy(self, entry: GroupEntry) -> bool:
        url = f"http://{entry.host}:{entry.port}/health"
        try:
            answer = await self._client.get(url, timeout=_PROBE_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    def _publish(self) -> None:
        if self.groups == self._published:
            return
        before = {entry.dp_rank: entry for entry in self._published}
        for entry in self.groups:
            was = before.get(entry.dp_rank)
            if was is None or (was.state, was.epoch) != (entry.state, entry.epoch):
                _log.info("DP group %d is %s", entry.dp_rank, entry.state)
        self._published = self.groups
        self._writer.publish(self._published, self._clock_ns())


def _read_card(instance: Instance, dp_rank: int) -> Card | None:
    """The leader's card; None if there is none (it is renamed into place, so never half)."""
    try:
        return Card(**orjson.loads(instance.card(dp_rank).read_bytes()))
    except FileNotFoundError:
        return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # another user's process is no rank of ours
        return False
    return True
