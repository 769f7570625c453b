"""A real front door, and beside it what a model knows of its requests (see world.py)."""

import random
from dataclasses import dataclass
from itertools import count

from balancer.assignment import Assignment, End
from balancer.controller import Controller
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.policies.random_choice import RandomChoice
from router.front_door.dispatcher import Dispatcher, Segments
from router.front_door.meters import Meters
from shm.board import Board
from shm.group_table import GroupTableReader
from shm.load import LoadReader

NUM_FRONT_DOORS, NUM_GROUPS = 2, 3


@dataclass(eq=False)
class Charged:
    """A request that was dispatched."""

    door: "FrontDoor"
    assignment: Assignment
    place: str = "sent"
    streamed_tokens: int = 0

    @property
    def tokens(self):
        return self.assignment.charge_tokens

    @property
    def dp_rank(self):
        return self.assignment.dp_rank

    @property
    def group_epoch(self):
        return self.assignment.group_epoch


class Gap:
    """Lets the world go on between the reads of two segments, whichever comes first."""

    def __init__(self):
        self._first, self._meanwhile = None, None

    def open(self, meanwhile):
        self._first, self._meanwhile = None, meanwhile

    def read(self, segment):
        if self._first is None:
            self._first = segment
        elif segment != self._first and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()


class GapBefore:
    """A reader of a segment that tells the gap of every use."""

    def __init__(self, reader, gap):
        self._reader, self._gap = reader, gap

    def __getattr__(self, name):
        self._gap.read(self._reader)
        return getattr(self._reader, name)


class FrontDoor:
    """One life of a front door, and what the model knows of it."""

    def __init__(self, instance, slot, epoch):
        self.slot, self.epoch = slot, epoch
        self.sent = set()  # charged and not taken back
        self.open = set()
        self.known_epochs = [0] * NUM_GROUPS
        self.seen = [None] * NUM_GROUPS  # newest Shown of the known epoch
        self.gap = Gap()
        self._segments = Segments(
            GroupTableReader.attach(instance),
            LoadReader.attach(instance),
            Board.attach(instance, writable=True),
        )
        self.controller = self._make_controller()
        watched = self._segments._replace(
            loads=GapBefore(self._segments.loads, self.gap),
            board=GapBefore(self._segments.board, self.gap),
        )
        meters = Meters(NUM_GROUPS)
        self._dispatcher = Dispatcher(
            self.controller, watched, slot, meters, count().__next__, lambda groups: None
        )

    def _make_controller(self):
        ledger = Ledger(
            slot=self.slot,
            epoch=self.epoch,
            num_front_doors=NUM_FRONT_DOORS,
            num_groups=NUM_GROUPS,
            note=lambda dp_rank, cell: self._segments.board.write(self.slot, dp_rank, cell),
        )
        policy = RandomChoice(random.Random(self.epoch))
        return Controller(policy, ledger, NUM_GROUPS, random.Random(self.epoch))

    def dispatch(self, tokens):
        """On the figures as they were read last, however old."""
        charged = Charged(self, self.controller.assign(RequestShape(tokens)))
        self.sent.add(charged)
        self.open.add(charged)
        return charged

    def release(self, charged, end):
        self.open.discard(charged)
        if end is End.NEVER_SENT:
            self.sent.discard(charged)
        self.controller.release(charged.assignment, end)

    def stream(self, charged, tokens):
        charged.streamed_tokens += tokens
        self.controller.streamed(charged.assignment, tokens)

    def read(self, table, published, meanwhile):
        self.gap.open(meanwhile)
        self._dispatcher.refresh()
        self.known_epochs = table
        for dp_rank, epoch in enumerate(table):
            seen = [s for s in (published[dp_rank], self.seen[dp_rank]) if s and s.epoch == epoch]
            self.seen[dp_rank] = seen[0] if seen else None

    def close(self):
        self._segments.close()
