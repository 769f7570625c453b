"""
The law: a dispatched token is counted exactly once.

Anything that can happen to a request, a group or a front door happens in any
order, also between a front door's reads of the two segments.  After each read
what its controller believes is compared with the truth (see world.py).
"""

import os
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.balancer.doors import NUM_FRONT_DOORS, NUM_GROUPS
from tests.balancer.world import World

_numbers = count()

slots = st.integers(0, NUM_FRONT_DOORS - 1)
dp_ranks = st.integers(0, NUM_GROUPS - 1)
tokens = st.integers(0, 1000)
picks = st.integers(0, 15)  # which of the requests that it could happen to

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
    st.tuples(st.just("dispatch"), slots, st.lists(tokens, min_size=1, max_size=3)),
    st.tuples(st.just("publish"), st.sets(dp_ranks)),
    st.tuples(st.just("list_group"), dp_ranks),
    st.tuples(st.just("restart"), st.booleans(), dp_ranks),
    st.just(("rush",)),
)


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

    @rule(slot=slots, sizes=st.lists(tokens, min_size=1, max_size=3))
    def dispatch(self, slot, sizes):
        if slot != self.reading:
            for size in sizes:
                self.world.dispatch(slot, size)

    @precondition(lambda self: self.world.in_place("held"))
    @rule(pick=picks, more=tokens)
    def produce(self, pick, more):
        """A held request grows, and its front door, if it still is there, sees the tokens."""
        held = self.world.in_place("held")
        charged = held[pick % len(held)]
        self.world.grow(charged, more)
        if charged in charged.door.open:
            charged.door.stream(charged, more)

    @rule(reported=st.sets(dp_ranks))
    def publish(self, reported):
        self.world.publish(reported)

    @rule()
    def rush(self):
        """Everything on its way arrives, is taken in, and published."""
        for charged in self.world.in_place("sent"):
            self.world.deliver(charged)
        for charged in self.world.in_place("inbox"):
            self.world.accept(charged)
        self.world.publish(range(NUM_GROUPS))

    @rule(of_group=st.booleans(), number=dp_ranks)
    def restart(self, of_group, number):
        slot = number % NUM_FRONT_DOORS
        if of_group:
            self.world.restart_group(number)
        elif slot != self.reading:
            self.world.restart_door(slot)

    @rule(dp_rank=dp_ranks)
    def list_group(self, dp_rank):
        """The control plane notices in which life the group is."""
        self.world.list_group(dp_rank)

    @rule(slot=slots, meanwhile=st.lists(happenings, max_size=4))
    def read(self, slot, meanwhile):
        """A front door reads both segments; between them this and that happens."""
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
        controller = self.world.doors[slot].controller
        controller.check_integrity()
        for dp_rank, load in enumerate(controller.loads()):
            truth = self.world.truth(slot, dp_rank)
            assert truth in (None, (load.tokens, load.requests)), f"group {dp_rank}: {load}"


TheLaw.TestCase.settings = settings(
    max_examples=500, stateful_step_count=60, deadline=None, print_blob=True
)
TestTheLaw = TheLaw.TestCase
