"""Backends that come to slots and leave them, front doors before them, and what is true of both."""

import random
from dataclasses import dataclass
from itertools import count

from balancer.assignment import End
from balancer.controller import Controller
from balancer.errors import NoCandidate
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.policies.minimum_tokens import MinimumTokens
from balancer.prefix_index import PrefixIndex
from router.front_door.dispatcher import Dispatcher, Segments
from router.front_door.meters import Meters
from shm import board, group_table, load
from shm.board import Board
from shm.group_table import GroupEntry, GroupState, GroupTableReader, GroupTableWriter
from shm.load import Accepted, LoadReader, LoadWriter
from tests.balancer.doors import Gap, GapBefore
from tests.balancer.loads import report

NUM_DOORS, NUM_SLOTS, MAX_LOAD_AGE_NS, PAGE = 2, 3, 1_000, 16
_CANDIDATES = (GroupState.READY, GroupState.SUSPECT)


@dataclass(eq=False)
class Open:
    """A request that is open; `life` is the slot, and the epoch of who had it then."""

    door: "Door"
    assignment: object
    tokens: int

    @property
    def life(self):
        return self.assignment.dp_rank, self.assignment.group_epoch

    @property
    def charge(self):
        return self.assignment.charge_tokens


class Door:
    """One life of a front door."""

    def __init__(self, instance, slot, epoch, clock_ns):
        self.slot = slot
        self.open = []
        self.served = set()
        """Lives that it has ever sent something to."""
        self.known = {}
        """The table as it was read last: epoch and state by slot."""
        self.epochs = [0] * NUM_SLOTS
        self.noted = [(0, 0)] * NUM_SLOTS
        """Tokens and requests on the board, of the life that it knows of each slot."""
        self.gap = Gap()
        self._segments = Segments(
            GroupTableReader.attach(instance),
            LoadReader.attach(instance),
            Board.attach(instance, writable=True),
        )
        ledger = Ledger(
            slot=slot, epoch=epoch, num_front_doors=NUM_DOORS, num_groups=NUM_SLOTS,
            note=lambda dp_rank, cell: self._segments.board.write(slot, dp_rank, cell),
        )  # fmt: skip
        rng = random.Random(epoch)
        self.controller = Controller(
            MinimumTokens(rng), ledger, NUM_SLOTS, rng, MAX_LOAD_AGE_NS, PrefixIndex(NUM_SLOTS)
        )
        watched = self._segments._replace(
            loads=GapBefore(self._segments.loads, self.gap),
            board=GapBefore(self._segments.board, self.gap),
        )
        self._dispatcher = Dispatcher(
            self.controller, watched, slot, Meters(NUM_SLOTS), clock_ns, lambda groups: None
        )

    def dispatch(self, tokens, digest):
        """To one of those that it knows to be there; refused only if nobody is."""
        may = {rank for rank, (_, state) in self.known.items() if state in _CANDIDATES}
        shape = RequestShape(tokens, (digest,), PAGE)
        try:
            assignment = self.controller.assign(shape)
        except NoCandidate:
            assert not may
            return None
        assert assignment.dp_rank in may
        assert assignment.group_epoch == self.known[assignment.dp_rank][0]
        opened = Open(self, assignment, tokens)
        self.open.append(opened)
        self.served.add(opened.life)
        self._note(assignment.dp_rank)
        return opened

    def stream(self, opened, tokens):
        opened.tokens += tokens
        self.controller.streamed(opened.assignment, tokens)

    def release(self, opened):
        self.open.remove(opened)
        self.controller.release(opened.assignment, End.UNCOUNTED)
        if opened.life == (opened.life[0], self.epochs[opened.life[0]]):
            self._note(opened.life[0])

    def note_books(self):
        self.controller.note_books()
        for rank in range(NUM_SLOTS):
            self._note(rank)

    def _note(self, rank):
        self.noted[rank] = self.book(rank)

    def book(self, rank):
        """Tokens and requests that are open on who has the slot, as far as it knows."""
        mine = [each.tokens for each in self.open if each.life == (rank, self.epochs[rank])]
        return sum(mine), len(mine)

    def charges(self, rank):
        """Tokens and requests in flight to whom it knows there."""
        mine = [each.charge for each in self.open if each.life == (rank, self.epochs[rank])]
        return sum(mine), len(mine)

    def read(self, table, meanwhile):
        self.known = dict(table)
        for rank, (epoch, _) in table.items():
            if epoch != self.epochs[rank]:
                self.epochs[rank], self.noted[rank] = epoch, (0, 0)
        self.gap.open(meanwhile)
        self._dispatcher.refresh()

    def close(self):
        self._segments.close()


class House:
    """All of it: segments, those who come and go, and front doors."""

    def __init__(self, instance):
        self._instance = instance
        self._epochs = count(1)
        self._made = [
            load.create(instance, NUM_SLOTS, NUM_DOORS, epoch=1),
            board.create(instance, NUM_DOORS, NUM_SLOTS, epoch=1),
            group_table.create(instance, NUM_SLOTS, epoch=1),
        ]
        self._loads = LoadWriter.attach(instance, NUM_SLOTS, NUM_DOORS)
        self._table = GroupTableWriter.attach(instance)
        self.root = Board.attach(instance, writable=True)
        self.now_ns = 0
        self.table = {}
        self.reports = {}
        """The newest of each slot, whoever's: beyond the books so many tokens."""
        self.doors = [self._new_door(slot) for slot in range(NUM_DOORS)]
        self.on_row = list(self.doors)
        self._publish()

    def _new_door(self, slot):
        return Door(self._instance, slot, next(self._epochs), lambda: self.now_ns)

    def close(self):
        alive = [door for door in self.doors if door]
        for one in (*alive, self.root, self._loads, self._table, *self._made):
            one.close()
        for made in self._made:
            made.unlink()

    @property
    def open(self):
        return [opened for door in self.doors if door for opened in door.open]

    # Membership

    def take(self, rank):
        """Somebody new has the slot from now on."""
        self.table[rank] = (next(self._epochs), GroupState.READY)
        self._publish()

    def free(self, rank):
        """Nobody has it, whatever is open there."""
        if self.table.pop(rank, None):
            self._publish()

    def put(self, rank, state):
        if rank in self.table:
            self.table[rank] = (self.table[rank][0], state)
            self._publish()

    def _publish(self):
        rows = [
            GroupEntry(rank, state, epoch, f"h{epoch}", 1, engine="vllm")
            for rank, (epoch, state) in sorted(self.table.items())
        ]
        self._table.publish(rows, 0)

    def tell(self, rank, tokens):
        """Whoever has the slot holds so much beyond the books; a freed one's stays for a while."""
        self.now_ns += 1
        if rank in self.table:
            told = report(
                rank, group_epoch=self.table[rank][0], sampled_ns=self.now_ns,
                holding_tokens=tokens, max_requests=1 << 40,
                accepted=(Accepted(0, 0, 0, 0, 0),) * NUM_DOORS,
            )  # fmt: skip
            self.reports[rank] = told
        self._loads.publish(self.reports.values(), 0)

    # Front doors

    def kill(self, slot):
        self.doors[slot].close()
        self.doors[slot] = None

    def reclaim(self, slot):
        self.on_row[slot] = None
        self.root.reclaim(slot)

    def start(self, slot):
        self.reclaim(slot)
        self.doors[slot] = self.on_row[slot] = self._new_door(slot)

    def read(self, slot, meanwhile=lambda: None):
        self.doors[slot].read(self.table, meanwhile)

    # The truth

    def truth(self, door, rank):
        """Tokens and requests of the load, and in flight, that the door must believe."""
        epoch = door.epochs[rank]
        tokens, requests = door.book(rank)
        flying, num_flying = door.charges(rank)
        for other in filter(None, self.on_row):
            if other is not door and other.epochs[rank] == epoch:
                tokens, requests = tokens + other.noted[rank][0], requests + other.noted[rank][1]
                flying = flying + other.charges(rank)[0]
                num_flying += other.charges(rank)[1]
        return tokens, requests, flying, num_flying
