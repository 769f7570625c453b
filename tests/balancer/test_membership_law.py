"""
The law where groups come and go: what is open on a slot is never the next one's.

Backends take slots and leave them, with requests open there or not; front doors dispatch,
stream, release, die, and read late or in between.  After each read what a front door's
controller believes is compared with the truth (see guests.py).
"""

import os
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from balancer.in_flight import in_flight
from shm.group_table import GroupState
from tests.balancer.guests import MAX_LOAD_AGE_NS, NUM_DOORS, NUM_SLOTS, House

_numbers = count()
slots = st.integers(0, NUM_DOORS - 1)
ranks = st.integers(0, NUM_SLOTS - 1)
tokens = st.integers(17, 400)
picks = st.integers(0, 15)
digests = st.integers(1, 3)
states = st.sampled_from([*[GroupState.READY] * 3, *GroupState])
happenings = st.one_of(
    st.tuples(st.just("take"), ranks),
    st.tuples(st.just("free"), ranks),
    st.tuples(st.just("put"), ranks, states),
    st.tuples(st.just("tell"), ranks, tokens),
    st.tuples(st.just("dispatch"), slots, tokens, digests),
    st.tuples(st.just("stream"), picks, tokens),
    st.tuples(st.just("release"), picks),
    st.tuples(st.just("end_of_door"), slots),
    st.tuples(st.just("note_books"), slots),
)


class GuestsComeAndGo(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.house = House(f"test.guests.{os.getpid()}.{next(_numbers)}")
        self.reading = None

    def teardown(self):
        self.house.close()

    @initialize()
    def begin(self):
        """Two of three slots are taken."""
        for rank in (0, 1):
            self.house.take(rank)
        for slot in range(NUM_DOORS):
            self.house.read(slot)

    def acts(self, slot):
        return slot != self.reading and self.house.doors[slot] is not None

    def chosen(self, pick):
        able = [each for each in self.house.open if each.door.slot != self.reading]
        return able[pick % len(able)] if able else None

    @rule(rank=ranks)
    def take(self, rank):
        """Somebody comes; if the slot was somebody's, nobody saw it empty."""
        self.house.take(rank)

    @rule(rank=ranks)
    def free(self, rank):
        self.house.free(rank)

    @rule(rank=ranks, state=states)
    def put(self, rank, state):
        self.house.put(rank, state)

    @rule(rank=ranks, held=tokens)
    def tell(self, rank, held):
        self.house.tell(rank, held)

    @rule(slot=slots, size=tokens, digest=digests)
    def dispatch(self, slot, size, digest):
        if self.acts(slot):
            self.house.doors[slot].dispatch(size, digest)

    @rule(pick=picks, more=tokens)
    def stream(self, pick, more):
        opened = self.chosen(pick)
        if opened:
            opened.door.stream(opened, more)

    @rule(pick=picks)
    def release(self, pick):
        opened = self.chosen(pick)
        if opened:
            opened.door.release(opened)

    @rule(slot=slots)
    def note_books(self, slot):
        if self.acts(slot):
            self.house.doors[slot].note_books()

    @rule(slot=slots)
    def end_of_door(self, slot):
        """It is killed; or its row is reclaimed; or it comes back."""
        if slot == self.reading:
            return
        if self.house.doors[slot] is not None:
            self.house.kill(slot)
        elif self.house.on_row[slot]:
            self.house.reclaim(slot)
        else:
            self.house.start(slot)

    @rule(ns=st.sampled_from([1, MAX_LOAD_AGE_NS + 1]))
    def wait(self, ns):
        self.house.now_ns += ns

    @rule(slot=slots, meanwhile=st.lists(happenings, max_size=4))
    def read(self, slot, meanwhile):
        """Between its reads of the two segments this and that happens."""
        if self.acts(slot):
            reports = dict(self.house.reports)
            self.reading = slot
            self.house.read(slot, lambda: [getattr(self, what)(*how) for what, *how in meanwhile])
            self.reading = None
            self.check(self.house.doors[slot], reports)

    def check(self, door, reports):
        controller = door.controller
        controller.check_integrity()
        for rank, load in enumerate(controller.loads()):
            held, requests, flying, num_flying = self.house.truth(door, rank)
            if rank not in door.known:
                assert controller.states[rank] is None
                continue
            told = reports.get(rank)
            counts = controller.figures_are_fresh(rank)
            if counts:
                assert told.group_epoch == door.epochs[rank]
                assert self.house.now_ns - told.sampled_ns <= MAX_LOAD_AGE_NS
                held += told.holding_tokens
            assert (load.tokens, load.requests) == (held, requests), f"slot {rank}: {load}"
            assert controller.ledger.in_flight(rank) == (flying, num_flying)
            self.check_newcomer(door, rank)

    def check_newcomer(self, door, rank):
        """Who was sent nothing has nothing cached, and no dispatch is counted for him."""
        if (rank, door.epochs[rank]) not in door.served:
            pages = [door.controller.prefixes.match([digest])[rank] for digest in range(1, 4)]
            assert pages == [0, 0, 0]
            assert door.controller.ledger.num_dispatched(rank) == 0

    @rule()
    def look_from_outside(self):
        """What the control plane sums up is open, or was when its front door died."""
        for rank, (epoch, _) in self.house.table.items():
            cells = [self.house.root.read(slot, rank) for slot in range(NUM_DOORS)]
            there = [d for d in self.house.on_row if d and d.epochs[rank] == epoch]
            charges = [d.charges(rank) for d in there]
            expected = (sum(t for t, _ in charges), sum(n for _, n in charges))
            assert in_flight(epoch, None, cells) == expected


GuestsComeAndGo.TestCase.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, print_blob=True
)
TestGuestsComeAndGo = GuestsComeAndGo.TestCase
