"""
The law: a dispatched token is counted exactly once.

Anything that can happen to a request, a group, a front door or the publisher
happens in any order, also between a front door's reads of the two segments,
and time passes.  After each read what its controller believes is compared with
the truth (see world.py).
"""

import os
from itertools import combinations, count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shm.group_table import GroupState
from tests.balancer.doors import MAX_LOAD_AGE_NS, NUM_FRONT_DOORS, NUM_GROUPS
from tests.balancer.world import World

_numbers = count()

slots = st.integers(0, NUM_FRONT_DOORS - 1)
dp_ranks = st.integers(0, NUM_GROUPS - 1)
tokens = st.integers(0, 1000)
picks = st.integers(0, 15)  # which of the requests that it could happen to
states = st.sampled_from([*[GroupState.READY] * 4, *GroupState])
exclusions = st.frozensets(dp_ranks)
ages = st.sampled_from([1, MAX_LOAD_AGE_NS // 8, MAX_LOAD_AGE_NS + 1])

# What can happen to a request, and where it must be for that.
FATES = {
    "deliver": ["sent"],
    "never_sent": ["sent"],
    "settle": ["sent"],
    "accept": ["inbox"],
    "refuse": ["inbox"],
    "finish": ["held"],
    "release": ["sent", "inbox", "held", "over"],
}
BY_ITS_FRONT_DOOR = ("never_sent", "settle", "release")

happenings = st.one_of(
    st.tuples(st.sampled_from(sorted(FATES)), picks),
    st.tuples(st.just("dispatch"), slots, st.lists(tokens, min_size=1, max_size=3), exclusions),
    st.tuples(st.just("publish"), st.sets(dp_ranks)),
    st.tuples(st.just("take_over"), st.sets(dp_ranks)),
    st.tuples(st.just("publish_late"), picks),
    st.tuples(st.just("list_group"), dp_ranks, states),
    st.tuples(st.just("restart_group"), dp_ranks),
    st.tuples(st.just("end_of_door"), slots),
    st.tuples(st.just("note_books"), slots),
    st.tuples(st.just("wait"), ages),
    st.just(("rush",)),
)


def believed(load, truth, departed):
    """
    Whether load is the truth, but for requests that are known to be over since the report.

    Those, or some of them, are taken off, each with all that it held (see test_departures.py
    for which), and nothing else is.
    """
    held, in_flight, num_held, num_in_flight = truth
    assert (load.in_flight_tokens, load.in_flight_requests) == (in_flight, num_in_flight)
    num_off = num_held - load.held_requests
    sums = {sum(some) for some in combinations(departed, num_off)} if num_off >= 0 else set()
    return load.holding_tokens in {max(0, held - taken) for taken in sums}


def rule_of(fate):
    """A rule by which one request, of those that can, meets its fate."""

    def meet(self, pick):
        self.meet(fate, pick)

    meet.__name__ = fate
    return precondition(lambda self: self.able(fate))(rule(pick=picks)(meet))


class TheLaw(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World(f"test.law.{os.getpid()}.{next(_numbers)}")
        self.reading = None  # slot of the front door that is in the middle of a read

    def teardown(self):
        self.world.close()

    deliver, accept, finish, release, refuse, settle, never_sent = map(
        rule_of, ("deliver", "accept", "finish", "release", "refuse", "settle", "never_sent")
    )

    def able(self, fate):
        found = self.world.in_place(*FATES[fate])
        if fate in BY_ITS_FRONT_DOOR:
            return [one for one in found if one in one.door.open and one.door.slot != self.reading]
        return found

    def meet(self, fate, pick):
        able = self.able(fate)
        if able:
            getattr(self.world, fate)(able[pick % len(able)])

    @initialize()
    def begin(self):
        """Everybody has heard of everybody."""
        self.world.publish(range(NUM_GROUPS))
        for slot in range(NUM_FRONT_DOORS):
            self.world.read(slot)

    def acts(self, slot):
        """Whether that front door is alive, and not in the middle of a read."""
        return slot != self.reading and self.world.doors[slot] is not None

    @rule(slot=slots, sizes=st.lists(tokens, min_size=1, max_size=3), excluded=exclusions)
    def dispatch(self, slot, sizes, excluded):
        if self.acts(slot):
            for size in sizes:
                self.world.dispatch(slot, size, excluded)

    @precondition(lambda self: self.world.in_place("held"))
    @rule(pick=picks, more=tokens)
    def produce(self, pick, more):
        """A held request grows, and its front door, if it still is there, sees the tokens."""
        held = self.world.in_place("held")
        self._produce(held[pick % len(held)], more)

    def _produce(self, charged, more):
        self.world.grow(charged, more)
        if charged in charged.door.open and charged.door.slot != self.reading:
            charged.door.stream(charged, more)

    @rule(reported=st.sets(dp_ranks))
    def publish(self, reported):
        self.world.publish(reported)

    @rule(more=st.integers(0, 3))
    def rush(self, more=0):
        """Everything on its way arrives, is taken in, produces, and is published."""
        for charged in self.world.in_place("sent"):
            self.world.deliver(charged)
        for charged in self.world.in_place("inbox"):
            self.world.accept(charged)
        for charged in self.world.in_place("held"):
            self._produce(charged, more)
        self.world.publish(range(NUM_GROUPS))

    @rule()
    def look(self):
        """Every front door reads, and nothing happens meanwhile."""
        for slot in range(NUM_FRONT_DOORS):
            self.read_and_check(slot, [])

    @rule(has_reported=st.sets(dp_ranks))
    def take_over(self, has_reported):
        self.world.take_over(has_reported)

    @rule(pick=picks)
    def publish_late(self, pick):
        self.world.publish_late(pick)

    @rule(dp_rank=dp_ranks)
    def restart_group(self, dp_rank):
        self.world.restart_group(dp_rank)

    @rule(slot=slots)
    def end_of_door(self, slot):
        """It is killed; or its row is reclaimed; or that again; or it comes back."""
        if self.acts(slot):
            self.world.kill_door(slot)
        elif self.world.on_row[slot] and slot != self.reading:
            self.world.reclaim(slot)
        elif slot != self.reading:
            self.world.reclaim(slot)
            self.world.start_door(slot)

    @rule(slot=slots)
    def note_books(self, slot):
        if self.acts(slot):
            self.world.doors[slot].note_books()

    @rule(ns=ages)
    def wait(self, ns):
        self.world.now_ns += ns

    @rule(dp_rank=dp_ranks, state=states)
    def list_group(self, dp_rank, state):
        """The control plane notices in which life the group is, and how it does."""
        self.world.list_group(dp_rank, state)

    @rule(slot=slots, meanwhile=st.lists(happenings, max_size=4))
    def read(self, slot, meanwhile):
        """A front door reads both segments; between them this and that happens."""
        self.read_and_check(slot, meanwhile)

    def read_and_check(self, slot, meanwhile):
        if self.acts(slot):
            self.reading = slot
            self.world.read(slot, lambda: [self._happens(*one) for one in meanwhile])
            self.reading = None
            self._check(slot)

    def _happens(self, what, *details):
        if what in FATES:
            self.meet(what, *details)
        else:
            getattr(self, what)(*details)

    def _check(self, slot):
        door, controller = self.world.doors[slot], self.world.doors[slot].controller
        controller.check_integrity()
        for dp_rank, load in enumerate(controller.loads()):
            assert controller.figures_are_fresh(dp_rank) == door.fresh[dp_rank]
            truth = self.world.truth(slot, dp_rank)
            departed = self.world.departed(slot, dp_rank)
            assert truth is None or believed(load, truth, departed), f"group {dp_rank}: {load}"
            uncached = load.in_flight_tokens if door.fresh[dp_rank] else door.unstarted(dp_rank)
            assert load.uncached_tokens == uncached, f"group {dp_rank}: {load}"


TheLaw.TestCase.settings = settings(
    max_examples=500, stateful_step_count=60, deadline=None, print_blob=True
)
TestTheLaw = TheLaw.TestCase
