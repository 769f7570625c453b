"""A breaker under every order of events that hypothesis thinks of."""

import random
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from balancer.breaker import JITTER, MAX_DOUBLINGS, Breaker, BreakerRules, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState
RULES = BreakerRules(3, 2, 1_000, 10_000)
LONGEST_NS = round(1_000 * (1 + JITTER))


class AnyOrder(RuleBasedStateMachine):
    """Requests begin, are answered, fail, end and leave in any order, as time passes."""

    @initialize(seed=st.integers(0, 5))
    def begin(self, seed):
        self.changes = []
        tell = lambda breaker: self.changes.append(breaker.state)  # noqa: E731
        self.breaker = Breaker(RULES, random.Random(seed), tell)
        self.now_ns = 0
        self.open = {}
        self.is_past = {}

    def _some(self, index):
        who = list(self.open)[index % len(self.open)]
        return who, self.open[who]

    @rule(ns=st.integers(0, 2 * LONGEST_NS))
    def time_passes(self, ns):
        self.now_ns += ns

    @rule(forced=st.booleans())
    def send(self, forced):
        if self.breaker.is_passable(self.now_ns) or forced:
            who = object()
            self.open[who] = self.breaker.enter(who)

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 20))
    def answer(self, index):
        who, generation = self._some(index)
        self.open[who] = self.breaker.answered(who, generation, self.now_ns)

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 20), end=st.sampled_from(("well", "fails", "client left")))
    def end(self, index, end):
        who, generation = self._some(index)
        before, row = self.breaker.state, len(self.changes)
        if end == "well":
            self.breaker.succeeded(generation, self.now_ns)
        elif end == "fails":
            self.breaker.failed(generation, self.now_ns, "it broke")
        self.breaker.leave(who)
        self.breaker.leave(who)
        del self.open[who]
        if end != "fails":
            assert (self.breaker.state, len(self.changes)) == (before, row)

    @rule()
    def recover(self):
        self.breaker.well_again("it answers")

    @invariant()
    def at_most_one_probe_and_it_is_under_way(self):
        probe = self.breaker._probe
        assert probe is None or (probe in self.open and self.breaker.state is HALF_OPEN)

    @invariant()
    def it_is_never_shut_for_ever(self):
        """With nobody under way, it is passable once the longest cool-down has passed."""
        if not self.open:
            later_ns = self.now_ns + (LONGEST_NS << MAX_DOUBLINGS)
            if self.breaker.state is not OPEN:
                assert self.breaker.is_passable(self.now_ns)
            else:
                assert self.breaker._until_ns <= later_ns

    @invariant()
    def it_turns_only_as_it_may(self):
        allowed = {CLOSED: {OPEN}, OPEN: {HALF_OPEN}, HALF_OPEN: {OPEN, CLOSED}}
        states = [CLOSED, *self.changes]
        assert all(b in allowed[a] for a, b in pairwise(states))
        assert self.breaker.generation == len(self.changes)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
