"""
A host so small that every order of what happens on it can be tried.

Front door A charges groups, groups accept, a publisher publishes, front door B
reads and is asked what it believes.  Ledger, controller, board and load
segment are real, on memory of this process.  What B must believe comes from
sets of charges: nothing here adds or subtracts a counter.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from balancer.controller import Controller
from balancer.departures import Departure
from balancer.ledger import Ledger
from balancer.policies.random_choice import RandomChoice
from shm import double_buffer
from shm.board import Board
from shm.group_table import GroupState
from shm.load import Accepted, LoadReader, LoadWriter, body_bytes
from shm.segment import LINE_WORDS, WORD_BYTES
from tests.balancer.loads import group, report
from tests.shm.racing import FakeSegment

A, B, NUM_FRONT_DOORS = 0, 1, 2
LIMIT_NS = 1_000
_BOARD_BYTES = 4096


def interleavings(*lengths: int) -> Iterator[tuple[int, ...]]:
    """Every order of that many steps of each program, as the programs' numbers."""
    if not any(lengths):
        yield ()
    for program, left in enumerate(lengths):
        if left:
            rest = (*lengths[:program], left - 1, *lengths[program + 1 :])
            for others in interleavings(*rest):
                yield program, *others


@dataclass(frozen=True, eq=False)
class Charge:
    tokens: int
    dp_rank: int
    group_epoch: int
    front_door_epoch: int


@dataclass(frozen=True)
class Sample:
    """What a group has accepted and holds at one instant."""

    epoch: int
    sampled_ns: int = 0
    accepted: frozenset = field(default_factory=frozenset)
    held: frozenset = field(default_factory=frozenset)


def tokens_of(charges):
    return sum(charge.tokens for charge in charges)


def report_of(dp_rank, sample):
    newest = max((charge.front_door_epoch for charge in sample.accepted), default=0)
    counted = [c for c in sample.accepted if c.front_door_epoch == newest]
    return report(
        dp_rank,
        group_epoch=sample.epoch,
        sampled_ns=sample.sampled_ns,
        holding_tokens=tokens_of(sample.held),
        running_requests=len(sample.held),
        accepted=(
            Accepted(newest, tokens_of(counted), len(counted), 0, 0),
            Accepted(0, 0, 0, 0, 0),
        ),
    )


class HeldBack:
    """The header of a segment, for a writer whose last store is a step of its own."""

    def __init__(self, words):
        self._words, self._store = words, None

    def __getitem__(self, word):
        return self._words[word]

    def __setitem__(self, word, value):
        self._store = (word, value)

    def let_go(self):
        word, value = self._store
        self._words[word] = value


class Publisher:
    """Writes the buffer that is not current, and moves the index: two steps."""

    def __init__(self, host):
        self._host = host
        self._words = HeldBack(host.load_segment.words)
        behind = FakeSegment(self._words, host.load_segment.payload)
        self._writer = LoadWriter(behind, len(host.groups), NUM_FRONT_DOORS)

    def write(self, *dp_ranks):
        self._written = {rank: self._host.groups[rank] for rank in dp_ranks}
        self._writer.publish([report_of(*one) for one in self._written.items()], 0)

    def move(self):
        self._words.let_go()
        self._host.published = self._written


class Host:
    """All of it; each method that a program names is one step."""

    def __init__(self, num_groups=1):
        size = double_buffer.payload_bytes(body_bytes(num_groups, NUM_FRONT_DOORS))
        self.load_segment = FakeSegment([0] * LINE_WORDS, memoryview(bytearray(size)))
        self._cells = memoryview(bytearray(_BOARD_BYTES))
        struct.pack_into("<QQ", self._cells, 0, NUM_FRONT_DOORS, num_groups)
        self.board = Board(FakeSegment(None, self._cells))
        self._now_ns = 0
        self.groups = [Sample(epoch=1) for _ in range(num_groups)]
        self._inbox = []
        self.published = {}
        self.listed = [1] * num_groups
        self.publisher = Publisher(self)
        self.noted = set()  # charges on A's row
        self.book = {}  # tokens of A's open charges, as they are on its row
        self._reader = LoadReader(self.load_segment)
        self._begin_door()
        self._b = Controller(
            RandomChoice(random.Random(0)),
            self._ledger(B, epoch=100),
            num_groups,
            random.Random(0),
            LIMIT_NS,
        )
        self._b_epochs, self._b_row, self._b_book = [0] * num_groups, set(), {}
        self._b_seen = [None] * num_groups
        self.list_groups()

    def _ledger(self, slot, epoch):
        return Ledger(
            slot=slot,
            epoch=epoch,
            num_front_doors=NUM_FRONT_DOORS,
            num_groups=len(self.groups),
            note=lambda dp_rank, cell: self.board.write(slot, dp_rank, cell),
        )

    # Front door A

    def _begin_door(self, epoch=1):
        self._a_epoch, self._a = epoch, self._ledger(A, epoch)
        self._unsent, self._open = [], {}
        self.learn()

    def learn(self):
        """A reads the group table."""
        for dp_rank, epoch in enumerate(self.listed):
            if epoch > self._a.epoch(dp_rank):
                self._a.begin_group(dp_rank, epoch)
                self.noted -= {charge for charge in self.noted if charge.dp_rank == dp_rank}
                self._open = {c: n for c, n in self._open.items() if c.dp_rank != dp_rank}
                self.book = dict(self._open)

    def note(self, tokens, dp_rank=0):
        epoch = self._a.dispatch(dp_rank, tokens)
        charge = Charge(tokens, dp_rank, epoch, self._a_epoch)
        self._unsent.append(charge)
        self.noted.add(charge)
        self._open[charge] = tokens
        self.book = dict(self._open)

    def note_and_die_half_way(self, num_words):
        """Of the cell that it writes, so many words are stored; then nothing more."""
        before = bytes(self._cells)
        self._a.dispatch(0, 1_000)
        starts = range(0, len(before), WORD_BYTES)
        word = WORD_BYTES
        stored = [i for i in starts if self._cells[i : i + word] != before[i : i + word]]
        stored.append(stored.pop(0))  # the row's word, which lies before its cells
        for at in stored[num_words:]:
            self._cells[at : at + WORD_BYTES] = before[at : at + WORD_BYTES]

    def stream(self, tokens):
        """Of the charge that has been open longest."""
        charge = next(iter(self._open))
        self._a.stream(charge.dp_rank, charge.group_epoch, tokens)
        self._open[charge] += tokens

    def note_books(self):
        self._a.note_books()
        self.book = dict(self._open)

    def end(self):
        charge, tokens = next(iter(self._open.items()))
        gone = Departure(10, 1, tokens)
        self._a.end(charge.dp_rank, charge.group_epoch, tokens, gone)
        del self._open[charge]

    def send(self):
        self._inbox.append(self._unsent.pop(0))

    def reclaim(self):
        """The root, when it has waited for A."""
        self.board.reclaim(A)
        self.noted, self.book = set(), {}

    def start_again(self):
        self._begin_door(self._a_epoch + 1)

    # Groups, publishers, the control plane, and time

    def accept(self, dp_rank=0):
        """Take in what has arrived; what was held before has just ended."""
        now = self.groups[dp_rank]
        arrived = {c for c in self._inbox if (c.dp_rank, c.group_epoch) == (dp_rank, now.epoch)}
        self._inbox = [c for c in self._inbox if c.dp_rank != dp_rank]
        self._now_ns += 1
        self.groups[dp_rank] = Sample(
            now.epoch, self._now_ns, now.accepted | arrived, frozenset(arrived)
        )

    def publish(self):
        self.publisher.write(*range(len(self.groups)))
        self.publisher.move()

    def take_over(self):
        """The publisher died; another one begins."""
        self.publisher = Publisher(self)

    def wait(self):
        """What was sampled until now is stale."""
        self._now_ns += LIMIT_NS + 1

    def restart_group(self):
        self._now_ns += 1
        self.groups[0] = Sample(self.groups[0].epoch + 1, self._now_ns)

    def list_groups(self):
        """The control plane notices in which lives the groups are."""
        self.listed = [now.epoch for now in self.groups]

    # Front door B

    def read_table(self):
        for dp_rank, epoch in enumerate(self.listed):
            self._b.observe_group(group(dp_rank, GroupState.READY, epoch))
            if epoch != self._b_epochs[dp_rank]:
                self._b_epochs[dp_rank], self._b_seen[dp_rank] = epoch, None

    def read_loads(self):
        snapshot = self._reader.snapshot()
        if snapshot is not None:
            self._b.observe_reports(snapshot.reports)
        for dp_rank, sample in self.published.items():
            if sample.epoch == self._b_epochs[dp_rank]:
                self._b_seen[dp_rank] = sample

    def read_board(self):
        self._b.observe_cells(A, self.board.changed(A))
        self._b_row, self._b_book = set(self.noted), dict(self.book)

    def check(self):
        """What B believes is what its reads must have told it, each charge once."""
        self._b.observe_time(self._now_ns)
        self._b.check_integrity()
        for dp_rank, load in enumerate(self._b.loads()):
            assert load[1:5] == self._truth(dp_rank), f"group {dp_rank}: {load}"

    def _truth(self, dp_rank):
        seen, life = self._b_seen[dp_rank], (dp_rank, self._b_epochs[dp_rank])
        if seen is None or self._now_ns - seen.sampled_ns > LIMIT_NS:
            booked = [n for c, n in self._b_book.items() if (c.dp_rank, c.group_epoch) == life]
            return sum(booked), 0, len(booked), 0
        sent = {charge for charge in self._b_row if (charge.dp_rank, charge.group_epoch) == life}
        flying = sent - seen.accepted
        return tokens_of(seen.held), tokens_of(flying), len(seen.held), len(flying)
