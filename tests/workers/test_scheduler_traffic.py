"""
Random traffic through scheduler, prefix cache and pages, all books checked at any time.

`python -m tests.workers.test_scheduler_traffic 100000` runs at least as many steps in each
order (see tests.workers.traffic), from new seeds, and says what they were made of.
"""

import sys
from collections import Counter
from typing import ClassVar

from hypothesis import Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.workers.traffic import Traffic


class InOrder(Traffic):
    """Each step is committed before anything else happens."""

    counts: ClassVar = Counter()

    @invariant()
    def pages_locks_and_requests_agree(self):
        """The requests' between steps only: while one is under way, several are admitted."""
        self.scheduler.tables.check_integrity()
        if self.flight is None:
            self.scheduler.check_integrity()

    @invariant()
    def every_prompt_token_is_counted_once(self):
        for request in self.requests.values():
            account = request.account
            counted = account.num_cached + account.num_computed
            assert counted == min(account.num_reached, request.num_prompt)
            assert account.num_retractions or not account.num_recomputed

    @invariant()
    def totals_are_those_of_all_who_have_left(self):
        assert self.scheduler.totals == self.left

    @invariant()
    def nobody_starves(self):
        """What happens in one step is noticed after it, and a step has so many seats."""
        bound = self.order.max_overtaken + self.scheduler.limits.max_running_requests
        for request in self.scheduler.waiting:
            assert self.scheduler.waiting.num_overtaken(request) <= bound

    @invariant()
    def holding_is_what_the_clients_know(self):
        known = sum(self.requests[i].num_prompt + len(self.outputs[i]) for i in self.live)
        holdings = self.scheduler.holdings()
        assert holdings.holding_tokens == known
        assert holdings.running_requests + holdings.waiting_requests == len(self.live)
        assert holdings.running_requests <= self.scheduler.limits.max_running_requests
        assert holdings.kv_used_tokens + holdings.waiting_uncached_tokens <= known


class Overlapped(InOrder):
    """While a step is under way the next is prepared, and arrivals wait."""

    looks_ahead = True
    counts: ClassVar = Counter()


ORDERS = (InOrder, Overlapped)
FEW = settings(max_examples=150, stateful_step_count=40, deadline=None)
for order in ORDERS:
    order.TestCase.settings = FEW
TestInOrder, TestOverlapped = (order.TestCase for order in ORDERS)


def main(num_steps):
    """Run both machines, from new seeds, until each has made as many steps."""
    many = settings(
        FEW, max_examples=500, stateful_step_count=80, database=None, phases=[Phase.generate]
    )
    for order in ORDERS:
        while num_steps > order.counts["steps"]:
            run_state_machine_as_test(order, settings=many)
        told = ", ".join(f"{count} {name}" for name, count in order.counts.items())
        sys.stdout.write(f"{order.__name__}: {told}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
