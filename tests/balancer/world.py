"""
A host with two front doors and three groups, in which every request is known by name.

The front doors are real: dispatcher, controller, ledger, and the three
segments.  What they talk to is a model that keeps sets of requests and does no
arithmetic with counters, except where a group fills in its report.

    dispatch ──► sent ──deliver──► inbox ──accept──► held ──finish──► over
                  │                  └──refuse──────────────────────► over
                  ├──settle (the group counts it and never holds it)► over
                  └──never_sent─────────────────────────────────────► over

A front door lets go of a request (`release`) whenever its client leaves or
its answer ends, wherever the request is by then.
"""

from dataclasses import dataclass, field, replace
from itertools import count

from balancer.assignment import End
from shm import board, group_table, load
from shm.group_table import GroupEntry, GroupState, GroupTableWriter
from shm.load import Accepted, LoadWriter
from tests.balancer.doors import NUM_FRONT_DOORS, NUM_GROUPS, FrontDoor
from tests.balancer.loads import report


@dataclass(frozen=True)
class Shown:
    """A group at the instant of a report."""

    epoch: int = 0
    accepted: frozenset = frozenset()
    held: dict = field(default_factory=dict)
    """Tokens of each request."""


class Group:
    """A group's leader: what it has accepted, and what it holds."""

    def __init__(self, dp_rank, epoch):
        self.dp_rank = dp_rank
        self.now = Shown(epoch)

    def accept(self, charged, *, hold):
        held = self.now.held | ({charged: charged.tokens} if hold else {})
        self.now = replace(self.now, accepted=self.now.accepted | {charged}, held=held)

    def grow(self, charged, tokens):
        held = self.now.held | {charged: self.now.held[charged] + tokens}
        self.now = replace(self.now, held=held)

    def finish(self, charged):
        held = {one: tokens for one, tokens in self.now.held.items() if one is not charged}
        self.now = replace(self.now, held=held)


def report_of(dp_rank, shown):
    return report(
        dp_rank,
        group_epoch=shown.epoch,
        holding_tokens=sum(shown.held.values()),
        running_requests=len(shown.held),
        max_requests=1 << 40,
        accepted=tuple(accepted_from(slot, shown.accepted) for slot in range(NUM_FRONT_DOORS)),
    )


def accepted_from(slot, accepted):
    """What came from the newest life of that front door that the group has heard of."""
    mine = [charged for charged in accepted if charged.door.slot == slot]
    newest = max((charged.door.epoch for charged in mine), default=0)
    counted = [charged.tokens for charged in mine if charged.door.epoch == newest]
    return Accepted(newest, sum(counted), len(counted))


class World:
    """All of it, and the truth about it."""

    def __init__(self, instance):
        self._instance = instance
        self._epochs = count(1)
        self._made = [
            load.create(instance, NUM_GROUPS, NUM_FRONT_DOORS, epoch=1),
            board.create(instance, NUM_FRONT_DOORS, NUM_GROUPS, epoch=1),
            group_table.create(instance, NUM_GROUPS, epoch=1),
        ]
        self._writer = LoadWriter.attach(instance, NUM_GROUPS, NUM_FRONT_DOORS)
        self._table_writer = GroupTableWriter.attach(instance)
        self.requests = []
        self.groups = [Group(rank, next(self._epochs)) for rank in range(NUM_GROUPS)]
        self.published = [None] * NUM_GROUPS
        self.table = [0] * NUM_GROUPS
        self.doors = [self._new_door(slot) for slot in range(NUM_FRONT_DOORS)]
        for dp_rank in range(NUM_GROUPS):
            self.list_group(dp_rank)

    def _new_door(self, slot):
        return FrontDoor(self._instance, slot, next(self._epochs))

    def close(self):
        for one in (*self.doors, self._writer, self._table_writer, *self._made):
            one.close()
        for made in self._made:
            made.unlink()

    def in_place(self, *places):
        """Requests that are in one of these places, oldest first."""
        return [charged for charged in self.requests if charged.place in places]

    # What front doors do

    def dispatch(self, slot, tokens):
        door = self.doors[slot]
        if door.controller.num_ready():
            self.requests.append(door.dispatch(tokens))

    def release(self, charged):
        charged.door.release(charged, End.REACHED)

    def never_sent(self, charged):
        charged.place = "over"
        charged.door.release(charged, End.NEVER_SENT)

    def settle(self, charged):
        """The connection broke: the group, if it is in the same life, counts the charge."""
        self.refuse(charged)
        self.release(charged)

    def restart_door(self, slot):
        """What it had sent may still arrive; nobody waits for it."""
        self.doors[slot].open.clear()
        self.doors[slot].close()
        self.doors[slot] = self._new_door(slot)

    def read(self, slot, meanwhile=lambda: None):
        self.doors[slot].read(list(self.table), list(self.published), meanwhile)

    # What groups do

    def deliver(self, charged):
        alive = charged.group_epoch == self.groups[charged.dp_rank].now.epoch
        charged.place = "inbox" if alive else "over"

    def accept(self, charged):
        charged.place = "held"
        self.groups[charged.dp_rank].accept(charged, hold=True)

    def refuse(self, charged):
        charged.place = "over"
        group = self.groups[charged.dp_rank]
        if charged.group_epoch == group.now.epoch:
            group.accept(charged, hold=False)

    def grow(self, charged, tokens):
        self.groups[charged.dp_rank].grow(charged, tokens)

    def finish(self, charged):
        charged.place = "over"
        self.groups[charged.dp_rank].finish(charged)

    def restart_group(self, dp_rank):
        """A new life; what the old one had is gone with it."""
        self.groups[dp_rank] = Group(dp_rank, next(self._epochs))
        for charged in self.in_place("inbox", "held"):
            if charged.dp_rank == dp_rank:
                charged.place = "over"

    # What TP0 and the control plane do

    def publish(self, dp_ranks):
        """Only these have reported since the last time."""
        for dp_rank in dp_ranks:
            self.published[dp_rank] = self.groups[dp_rank].now
        known = [(rank, shown) for rank, shown in enumerate(self.published) if shown]
        self._writer.publish([report_of(*one) for one in known], published_ns=0)

    def list_group(self, dp_rank):
        self.table[dp_rank] = self.groups[dp_rank].now.epoch
        rows = [GroupEntry(rank, GroupState.READY, epoch) for rank, epoch in enumerate(self.table)]
        self._table_writer.publish(rows, published_ns=0)

    # The truth

    def truth(self, slot, dp_rank):
        """
        Tokens and requests that the front door must believe are the group's.

        Each request once: with what the group held of it in the report that
        the front door saw, or, if that report had not accepted it, with its
        charge.  None if the table has gone on to a life that it does not know.
        """
        door = self.doors[slot]
        seen, epoch = door.seen[dp_rank], door.known_epochs[dp_rank]
        if epoch != self.table[dp_rank]:
            return None
        if seen is None:
            mine = [charged for charged in door.open if charged.dp_rank == dp_rank]
            return sum(c.tokens + c.streamed_tokens for c in mine), len(mine)
        sent = {charged for one in self.doors for charged in one.sent}
        here = {c for c in sent if c.dp_rank == dp_rank and c.group_epoch == epoch}
        flying = here - seen.accepted
        assert not flying & seen.held.keys()
        tokens = sum(seen.held.values()) + sum(charged.tokens for charged in flying)
        return tokens, len(seen.held) + len(flying)
