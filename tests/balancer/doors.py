"""A real front door, and beside it what a model knows of its requests (see world.py)."""

import random
from dataclasses import dataclass

from balancer.assignment import Assignment, End
from balancer.controller import Controller
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.policies.random_choice import RandomChoice
from router.front_door.dispatcher import Dispatcher, Segments
from router.front_door.meters import Meters
from shm.board import Board
from shm.group_table import GroupState, GroupTableReader
from shm.load import LoadReader

NUM_FRONT_DOORS, NUM_GROUPS, MAX_LOAD_AGE_NS = 2, 3, 1_000


@dataclass(eq=False)
class Charged:
    """A request that was dispatched."""

    door: "FrontDoor"
    assignment: Assignment
    prompt_tokens: int
    """What it will hold."""
    charge_tokens: int
    """What it has to compute: in flight until it is held."""
    place: str = "sent"
    streamed_tokens: int = 0
    is_answered: bool = False
    has_streamed: bool = False

    @property
    def dp_rank(self):
        return self.assignment.dp_rank

    @property
    def group_epoch(self):
        return self.assignment.group_epoch

    @property
    def life(self):
        """Of which group, and which of its lives."""
        return self.dp_rank, self.group_epoch


JUDGED = (GroupState.READY, GroupState.SUSPECT, GroupState.DRAINING)
"""Groups that serve, whose figures count for as long as they are young."""


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

    def __init__(self, instance, slot, epoch, clock_ns):
        self.slot, self.epoch, self._clock_ns = slot, epoch, clock_ns
        self.sent = set()  # charged and not taken back
        self.open = set()
        self.noted = [{} for _ in range(NUM_GROUPS)]  # tokens of what was open when it noted that
        self.known_epochs = [0] * NUM_GROUPS
        self.known_states = [GroupState.STARTING] * NUM_GROUPS
        self.seen = [None] * NUM_GROUPS  # newest Shown of the known epoch
        self.fresh = [False] * NUM_GROUPS
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
            self.controller, watched, slot, meters, clock_ns, lambda groups: None
        )

    def _make_controller(self):
        ledger = Ledger(
            slot=self.slot,
            epoch=self.epoch,
            num_front_doors=NUM_FRONT_DOORS,
            num_groups=NUM_GROUPS,
            note=lambda dp_rank, cell: self._segments.board.write(self.slot, dp_rank, cell),
        )
        rng = random.Random(self.epoch)
        return Controller(RandomChoice(rng), ledger, NUM_GROUPS, rng, MAX_LOAD_AGE_NS)

    def may_choose(self, excluded):
        """Groups that a request may go to, by the table as it was read last."""
        for state in (GroupState.READY, GroupState.SUSPECT):
            found = {rank for rank, known in enumerate(self.known_states) if known is state}
            if found - excluded:
                return found - excluded
        return set()

    def dispatch(self, tokens, excluded):
        """On the figures as they were read last, however old."""
        cached = [tokens * dp_rank // NUM_GROUPS for dp_rank in range(NUM_GROUPS)]
        shape = RequestShape(tokens, cached_tokens=cached)
        assignment = self.controller.assign(shape, excluded)
        charge = max(1, tokens - cached[assignment.dp_rank])
        assert assignment.charge_tokens == charge
        charged = Charged(self, assignment, tokens, charge)
        self.sent.add(charged)
        self.open.add(charged)
        self._note(charged)
        return charged

    def release(self, charged, end):
        """What was never sent is noted as taken back; what else ends, with the next note."""
        is_noted = charged.assignment.is_open and end is End.NEVER_SENT
        self.open.discard(charged)
        if end is End.NEVER_SENT:
            self.sent.discard(charged)
        self.controller.release(charged.assignment, end)
        if is_noted:
            self._note(charged)

    def stream(self, charged, tokens):
        charged.streamed_tokens += tokens
        charged.has_streamed = True
        self.controller.streamed(charged.assignment, tokens)

    def note_books(self):
        self.controller.note_books()
        self.noted = [self.book(dp_rank) for dp_rank in range(NUM_GROUPS)]

    def book(self, dp_rank):
        """Tokens of each request that is open on the group, in the life that is known of it."""
        known = (dp_rank, self.known_epochs[dp_rank])
        return {c: c.prompt_tokens + c.streamed_tokens for c in self.open if c.life == known}

    def unstarted(self, dp_rank):
        """Charges that are open on the group and have produced nothing."""
        return sum(c.charge_tokens for c in self.book(dp_rank) if not c.has_streamed)

    def _note(self, charged):
        """Whatever is noted of one request, the board has the whole book of its group."""
        if charged.group_epoch == self.known_epochs[charged.dp_rank]:
            self.noted[charged.dp_rank] = self.book(charged.dp_rank)

    def read(self, table, published, meanwhile):
        self.gap.open(meanwhile)
        self._dispatcher.refresh()
        now_ns = self._clock_ns()
        self.controller.observe_time(now_ns)
        for dp_rank, (epoch, state) in enumerate(table):
            self.known_states[dp_rank] = state
            if epoch != self.known_epochs[dp_rank]:
                self.known_epochs[dp_rank], self.noted[dp_rank] = epoch, {}
            known = [s for s in (published[dp_rank], self.seen[dp_rank]) if s and s.epoch == epoch]
            self.seen[dp_rank] = newest = max(known, key=lambda s: s.sampled_ns, default=None)
            is_young = newest is not None and now_ns - newest.sampled_ns <= MAX_LOAD_AGE_NS
            self.fresh[dp_rank] = is_young and state in JUDGED

    def close(self):
        self._segments.close()
