"""
What a group says of itself: its holdings and its counters, read at one instant.

Called by the step loop between taking arrivals in and the forward pass, and
again after each step: a request that was just taken in shows in `accepted` and
in `holding_tokens` of the same report, and one that has just ended in neither
again.  Nothing that the report tells changes during a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shm.load import LoadReport
from workers.engine.acceptance import AcceptedCounters
from workers.engine.scheduler import Scheduler


class GroupId(NamedTuple):
    """One incarnation of a DP group."""

    dp_rank: int
    epoch: int


class LoadMeter:
    """Counts steps, and makes the report.  clock_ns: time.monotonic_ns or a fake."""

    def __init__(self, group: GroupId, clock_ns: Callable[[], int]) -> None:
        self._group = group
        self._clock_ns = clock_ns
        self.num_steps = 0
        self._step_time_ns = 0
        self._step_prefill_tokens = 0

    def count_step(self, started_ns: int, num_prefill_tokens: int) -> None:
        """Note that a step which began at started_ns has ended now."""
        self.num_steps += 1
        self._step_time_ns = self._clock_ns() - started_ns
        self._step_prefill_tokens = num_prefill_tokens

    def sample(
        self, scheduler: Scheduler, accepted: AcceptedCounters, computing_tokens: int = 0
    ) -> LoadReport:
        """
        Return the report of this instant; a step may be about to compute prompt tokens.

        One that was retracted and found all but a token in the cache decodes: its token is
        computed as a prompt's is, and is none of holdings' uncached ones.
        """
        holdings = scheduler.holdings()
        computing_tokens = min(computing_tokens, holdings.waiting_uncached_tokens)
        return LoadReport(
            dp_rank=self._group.dp_rank,
            group_epoch=self._group.epoch,
            sampled_ns=self._clock_ns(),
            holding_tokens=holdings.holding_tokens,
            running_requests=holdings.running_requests,
            waiting_requests=holdings.waiting_requests,
            waiting_uncached_tokens=holdings.waiting_uncached_tokens,
            kv_used_tokens=holdings.kv_used_tokens,
            kv_capacity_tokens=scheduler.pool.capacity_tokens,
            max_requests=scheduler.limits.max_requests,
            num_steps=self.num_steps,
            step_time_ns=self._step_time_ns,
            step_prefill_tokens=self._step_prefill_tokens,
            computing_tokens=computing_tokens,
            accepted=accepted.read(),
        )
