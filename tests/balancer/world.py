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

A front door that is killed stands on its row, as it left it, until the root
reclaims that; then it may be started again.  Time passes where a test says so,
and by a nanosecond with each report, so that no two are equally old.
"""

from dataclasses import dataclass, field, replace
from itertools import count

from balancer.assignment import End
from balancer.errors import NoCandidate
from shm import board, group_table, load
from shm.board import Board
from shm.group_table import GroupEntry, GroupState, GroupTableWriter
from shm.load import Accepted, Ended, LoadWriter
from tests.balancer.doors import NUM_FRONT_DOORS, NUM_GROUPS, FrontDoor
from tests.balancer.loads import report


@dataclass(frozen=True)
class Shown:
    """A group at the instant of a report."""

    epoch: int = 0
    sampled_ns: int = 0
    accepted: frozenset = frozenset()
    ended: frozenset = frozenset()
    """Those of the accepted that hold nothing any more."""
    held: dict = field(default_factory=dict)
    """Tokens of each request."""


class Group:
    """A group's leader: what it has accepted, and what it holds."""

    def __init__(self, dp_rank, epoch):
        self.dp_rank = dp_rank
        self.now = Shown(epoch)

    def accept(self, charged, *, hold):
        held = self.now.held | ({charged: charged.prompt_tokens} if hold else {})
        self.now = replace(self.now, accepted=self.now.accepted | {charged}, held=held)
        if not hold:
            self.now = replace(self.now, ended=self.now.ended | {charged})

    def grow(self, charged, tokens):
        held = self.now.held | {charged: self.now.held[charged] + tokens}
        self.now = replace(self.now, held=held)

    def finish(self, charged):
        held = {one: tokens for one, tokens in self.now.held.items() if one is not charged}
        self.now = replace(self.now, held=held, ended=self.now.ended | {charged})


def report_of(dp_rank, shown):
    return report(
        dp_rank,
        group_epoch=shown.epoch,
        sampled_ns=shown.sampled_ns,
        holding_tokens=sum(shown.held.values()),
        running_requests=len(shown.held),
        max_requests=1 << 40,
        accepted=tuple(counters_of(slot, shown) for slot in range(NUM_FRONT_DOORS)),
    )


def counters_of(slot, shown):
    """What came from the newest life of that front door that the group has heard of."""
    mine = [charged for charged in shown.accepted if charged.door.slot == slot]
    newest = max((charged.door.epoch for charged in mine), default=0)
    counted = [charged for charged in mine if charged.door.epoch == newest]
    ended = Ended(0, 0)
    for charged in counted:
        if charged in shown.ended:
            ended = ended.plus(int(charged.assignment.dp_balance_id, 16))
    tokens = sum(charged.charge_tokens for charged in counted)
    return Accepted(newest, tokens, len(counted), *ended)


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
        self._root = Board.attach(instance, writable=True)
        self.now_ns = 0
        self.requests = []
        self.groups = [Group(rank, next(self._epochs)) for rank in range(NUM_GROUPS)]
        self.published = [None] * NUM_GROUPS
        self.old_reports = []
        self.table = [(0, GroupState.STARTING)] * NUM_GROUPS
        self.doors = [self._new_door(slot) for slot in range(NUM_FRONT_DOORS)]
        self.on_row = list(self.doors)  # whose figures a row has: also a dead one's
        for dp_rank in range(NUM_GROUPS):
            self.list_group(dp_rank)

    def _new_door(self, slot):
        return FrontDoor(self._instance, slot, next(self._epochs), lambda: self.now_ns)

    def close(self):
        alive = [door for door in self.doors if door]
        for one in (*alive, self._root, self._writer, self._table_writer, *self._made):
            one.close()
        for made in self._made:
            made.unlink()

    def in_place(self, *places):
        """Requests that are in one of these places, oldest first."""
        return [charged for charged in self.requests if charged.place in places]

    # What front doors do

    def dispatch(self, slot, tokens, excluded=frozenset()):
        door = self.doors[slot]
        allowed = door.may_choose(excluded)
        try:
            charged = door.dispatch(tokens, excluded)
        except NoCandidate:
            assert not allowed
        else:
            assert charged.dp_rank in allowed
            self.requests.append(charged)

    def release(self, charged):
        """It was answered to the end, or its client left."""
        end = End.COMPLETED if charged.is_answered else End.REACHED
        charged.door.release(charged, end)

    def never_sent(self, charged):
        charged.place = "over"
        charged.door.release(charged, End.NEVER_SENT)

    def settle(self, charged):
        """The connection broke: the group, if it is in the same life, counts the charge."""
        self.refuse(charged)
        self.release(charged)

    def kill_door(self, slot):
        """What it had sent may still arrive; nobody waits for it."""
        self.doors[slot].open.clear()
        self.doors[slot].close()
        self.doors[slot] = None

    def reclaim(self, slot):
        """From now on it is known to be dead.  The root is told what it had open, by its notes."""
        dead, self.on_row[slot] = self.on_row[slot], None
        noted = dead.noted if dead else []
        assert self._root.reclaim(slot) == sum(sum(book.values()) for book in noted)

    def start_door(self, slot):
        self.doors[slot] = self.on_row[slot] = self._new_door(slot)

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
        charged.is_answered = True
        self.groups[charged.dp_rank].finish(charged)

    def restart_group(self, dp_rank):
        """A new life; what the old one had is gone with it."""
        self.groups[dp_rank] = Group(dp_rank, next(self._epochs))
        for charged in self.in_place("inbox", "held"):
            if charged.dp_rank == dp_rank:
                charged.place = "over"

    # What the publisher and the control plane do

    def publish(self, dp_ranks):
        """Only these have reported since the last time."""
        for dp_rank in dp_ranks:
            self._report(dp_rank)
        self._show()

    def take_over(self, dp_ranks):
        """Another publisher: it has the reports of these alone."""
        self._writer.close()
        self._writer = LoadWriter.attach(self._instance, NUM_GROUPS, NUM_FRONT_DOORS)
        self.published = [None] * NUM_GROUPS
        self.publish(dp_ranks)

    def publish_late(self, pick):
        """A report that was on its way for long takes the place of a newer one."""
        if self.old_reports:
            dp_rank, shown = self.old_reports[-1 - pick % len(self.old_reports)]
            self.published[dp_rank] = shown
            self._show()

    def _report(self, dp_rank):
        self.now_ns += 1
        shown = replace(self.groups[dp_rank].now, sampled_ns=self.now_ns)
        self.published[dp_rank] = shown
        self.old_reports.append((dp_rank, shown))

    def _show(self):
        known = [(rank, shown) for rank, shown in enumerate(self.published) if shown]
        self._writer.publish([report_of(*one) for one in known], published_ns=0)

    def list_group(self, dp_rank, state=GroupState.READY):
        self.table[dp_rank] = (self.groups[dp_rank].now.epoch, state)
        rows = [GroupEntry(rank, state, epoch) for rank, (epoch, state) in enumerate(self.table)]
        self._table_writer.publish(rows, published_ns=0)

    # The truth

    def departed(self, slot, dp_rank):
        """
        Tokens of that front door's requests that its report holds, and that it knows to be over.

        They are taken off, if it is certain which they are.
        """
        door = self.doors[slot]
        if not door.fresh[dp_rank]:
            return []
        known = [c for c in door.seen[dp_rank].held if c.is_answered and c in door.sent - door.open]
        return [c.prompt_tokens + c.streamed_tokens for c in known]

    def truth(self, slot, dp_rank):
        """
        Tokens held and in flight, and requests, that the front door must believe are the group's.

        Each request once: with what the group held of it in the report that
        the front door saw, or, if that report had not accepted it, with its
        charge.  Where no report is young enough, each request that is open:
        the own with what it has streamed, the others' as they were noted.
        None if the table has gone on to a life that it does not know.
        """
        door = self.doors[slot]
        seen, epoch = door.seen[dp_rank], door.known_epochs[dp_rank]
        if epoch != self.table[dp_rank][0]:
            return None
        if not door.fresh[dp_rank]:
            opened = door.book(dp_rank)
            for other in filter(None, self.on_row):
                if other is not door:
                    opened |= other.noted[dp_rank]
            counted = [tokens for c, tokens in opened.items() if c.life == (dp_rank, epoch)]
            return sum(counted), 0, len(counted), 0
        sent = {charged for one in filter(None, self.on_row) for charged in one.sent}
        flying = {c for c in sent if c.life == (dp_rank, epoch)} - seen.accepted
        assert not flying & seen.held.keys()
        in_flight = sum(charged.charge_tokens for charged in flying)
        return sum(seen.held.values()), in_flight, len(seen.held), len(flying)
