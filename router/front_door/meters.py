"""
What a front door counts, in plain integers.

Counting must cost next to nothing, so nothing here knows Prometheus: the
control plane asks for the numbers when it is scraped (see meters_socket) and
gives them names and labels there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

from balancer.cost_model import CostFit

_MS_PER_S = 1e3
# Seconds.  Dense where engines live: 1 ms to 2.5 s, and sparse up to ten minutes.
LATENCY_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
DECISION_BOUNDS_S = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
AGE_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts of observations by upper bound, the last one without."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation, in the unit of the bounds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def as_dict(self) -> dict[str, Any]:
        """For the wire: {"bounds", "counts", "total"}."""
        return {"bounds": self.bounds, "counts": self.counts, "total": self.total}


class Meters:
    """One front door's counters since its start."""

    def __init__(self, num_groups: int) -> None:
        self.dispatches = [0] * num_groups
        self.prompt_tokens: Counter[str] = Counter()
        """Prompt tokens of requests, by how they were counted: exact or estimated."""
        self.responses: Counter[int] = Counter()
        """Answers to inference requests, by status."""
        self.disconnects = 0
        """Clients that left before their answer was complete."""
        self.upstream_lost = 0
        self.book_decisions = 0
        """Decisions for a group that was weighed with the front doors' books."""
        self.stale_groups = [0] * num_groups
        """1 for each group whose figures were found too old, until they are fresh again."""
        self.stale_transitions = [0] * num_groups
        """Times that each group's figures went stale."""
        self.retries: Counter[str] = Counter()
        """Requests sent to another group: the first was unreachable, lost, refused, wrong_epoch."""
        self.settlements: Counter[str] = Counter()
        """Uncertain charges, by what became of them: seen, unseen, epoch_over."""
        self.open_settlements = 0
        """Uncertain charges whose group has not said yet; as of the last time that was asked."""
        self.torn_snapshots = 0
        """Times that no whole copy of the load segment or the group table could be taken."""
        self.predicted_cached_tokens = 0
        """Prompt tokens that the chosen groups were believed to have cached."""
        self.prefix_groups = 0
        """Groups that are telling what their prefix caches hold."""
        self.prefix_digests = 0
        """Pages that they hold, as far as it is remembered."""
        self.cost_per_token_s = self.cost_per_request_s = self.cost_per_prefill_token_s = 0.0
        """What the method weighs with, as noted last."""
        self.cost_is_fitted = 0
        self.cost_fit_r_squared = 0.0
        self._add_traffic()
        self.ttft_s = Histogram(LATENCY_BOUNDS_S)
        self.inter_token_s = Histogram(LATENCY_BOUNDS_S)
        self.end_to_end_s = Histogram(LATENCY_BOUNDS_S)
        """Of complete answers alone: refusals are quick, and would hide how long these take."""
        self.decision_s = Histogram(DECISION_BOUNDS_S)
        self._add_ages()

    def _add_traffic(self) -> None:
        """What the process itself does."""
        self.open_connections = 0
        self.open_requests = 0
        self.open_streams = 0
        """Answers that are event streams, from their first piece to their end."""
        self.received_bytes = 0
        """From clients."""
        self.sent_bytes = 0
        """To clients."""
        self.cpu_s = 0.0
        """CPU time of the process, as noted last."""

    def _add_health(self) -> None:
        """Of groups that fail."""
        self.breaker_states: dict[int, int] = {}
        """Of each group that has a breaker: 0 closed, 1 open, 2 half-open."""
        self.breaker_changes: Counter[str] = Counter()
        """Times that a breaker turned to each state."""
        self.last_resorts = 0
        """Requests sent past an open breaker, because nobody else could take them."""
        self.slow_start_factors: dict[int, float] = {}
        """Of each group that serves: what its load was multiplied by when it was noted last."""
        self.retries_over_budget = 0
        """Requests that were not sent to another group because many had been."""

    def _add_ages(self) -> None:
        """Ages of figures; and what the lobby counts, nothing where there is none."""
        self.figure_age_s = Histogram(AGE_BOUNDS_S)
        self.waiting_requests = 0
        """Requests that wait here for a group, or are held."""
        self.waiting_overflows = 0
        """Requests refused because as many waited as may."""
        self.waited_s = Histogram(LATENCY_BOUNDS_S)
        """Of those that went to a group, or that no group would take; not of those that left."""
        self._add_health()

    def note_costs(self, costs: CostFit) -> None:
        """Take down the coefficients in use, and how well they explain the steps."""
        in_use = [each / _MS_PER_S for each in costs.step_cost]
        self.cost_per_token_s, self.cost_per_request_s, self.cost_per_prefill_token_s = in_use
        self.cost_is_fitted = int(costs.is_fitted)
        self.cost_fit_r_squared = costs.r_squared

    def forget(self, dp_rank: int) -> None:
        """The slot's group is no more: whoever has it next begins at nothing."""
        for counts in (self.dispatches, self.stale_groups, self.stale_transitions):
            counts[dp_rank] = 0

    def as_dict(self) -> dict[str, Any]:
        """Everything, for the wire."""
        return {
            name: value.as_dict() if isinstance(value, Histogram) else value
            for name, value in vars(self).items()
        }
