"""
The metrics: figures of groups and meters of front doors, under Prometheus names.

Made anew for each scrape out of the segments, the front doors' counters and the
groups' totals, so
there is no state here to go stale.  Series of front doors carry the label
`front_door`: when one restarts, its series start at zero as Prometheus expects,
and nobody else's do.  Labels are bounded: groups, front doors, methods,
statuses, states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from router.control_plane.backend_metrics import conditions
from router.control_plane.figures import GroupFigures, imbalance
from router.control_plane.kv_events.metrics import kv_metrics
from router.control_plane.kv_events.readers import KvReaders
from router.control_plane.totals import Totals
from shm.group_table import GroupState

_NS = 1e-9
_GROUP = ("group",)

# name, help, field of Totals
_TOTALS = (
    ("group_prompt_tokens", "Prompt tokens of requests that have left the group.",
     "prompt_tokens"),
    ("group_cached_tokens", "Of those, found in the prefix cache.", "cached_tokens"),
    ("group_computed_tokens", "Of those, computed; each once.", "computed_tokens"),
    ("group_recomputed_tokens", "Tokens of prompts and outputs computed again after retractions.",
     "recomputed_tokens"),
    ("group_output_tokens", "Output tokens of requests that have left the group.",
     "output_tokens"),
    ("group_retractions", "Times that such requests had to give up their pages.", "retractions"),
)  # fmt: skip

# name, help, field of LoadReport
_REPORTED = (
    ("holding_tokens", "Tokens the group holds: KV of running and prompts of waiting requests.",
     "holding_tokens"),
    ("running_requests", "Requests in the group's batch.", "running_requests"),
    ("waiting_requests", "Requests in the group's queue.", "waiting_requests"),
    ("waiting_uncached_tokens", "Prompt tokens the group has yet to compute.",
     "waiting_uncached_tokens"),
    ("kv_used_tokens", "KV tokens of the group's running requests.", "kv_used_tokens"),
    ("kv_capacity_tokens", "Tokens that fit the group's KV cache.", "kv_capacity_tokens"),
)  # fmt: skip

# name, help, key of the meters
_HISTOGRAMS = (
    ("time_to_first_token_seconds", "Request read to first token passed on (streams).", "ttft_s"),
    ("inter_token_latency_seconds", "Between pieces of a stream.", "inter_token_s"),
    ("e2e_request_latency_seconds", "Request read to answer complete.", "end_to_end_s"),
    ("front_door_wait_seconds", "Counted to dispatched, of requests that may wait.", "waited_s"),
    ("decision_seconds", "Reading the figures and choosing a group.", "decision_s"),
    ("figure_age_seconds", "Age of the chosen group's report when it was chosen.", "figure_age_s"),
)

# name, help, key of the meters
_COUNTERS = (
    ("client_disconnects", "Clients that left before their answer was complete.", "disconnects"),
    ("groups_lost", "Requests whose group was lost before the answer was complete.",
     "upstream_lost"),
    ("book_decisions", "Decisions for a group whose figures were stale or missing, on the books.",
     "book_decisions"),
    ("torn_snapshots", "Times that no whole copy of the load segment could be taken.",
     "torn_snapshots"),
    ("front_door_overflows", "Requests refused because too many wait in the front door.",
     "waiting_overflows"),
    ("predicted_cached_tokens", "Prompt tokens the chosen groups were believed to have cached.",
     "predicted_cached_tokens"),
)  # fmt: skip
# name and key of the meters, help, label
_KEYED = (
    ("responses", "Answers to inference requests.", "status"),
    ("prompt_tokens", "Prompt tokens of requests, by how counted.", "source"),
    ("retries", "Requests sent to another group, by what the one before did.", "reason"),
    ("settlements", "Uncertain ends that were settled, by what the group had seen.", "outcome"),
)
_GAUGES = (
    ("open_connections", "Client connections.", "open_connections"),
    ("open_requests", "Inference requests under way.", "open_requests"),
    ("front_door_waiting_requests", "Requests that wait in the front door.", "waiting_requests"),
    ("prefix_groups", "Groups that are telling what they have cached.", "prefix_groups"),
    ("prefix_digests", "Cached pages that the front door knows of.", "prefix_digests"),
    ("open_settlements", "Uncertain ends that no group has answered for yet.", "open_settlements"),
    ("cost_per_token_seconds", "What a held token adds to a step, by the cost model in use.",
     "cost_per_token_s"),
    ("cost_per_request_seconds", "What a request adds to a step.", "cost_per_request_s"),
    ("cost_per_prefill_token_seconds", "What computing a prompt token adds to a step.",
     "cost_per_prefill_token_s"),
    ("cost_is_fitted", "1 if these are fitted to reported steps, 0 for the prior.",
     "cost_is_fitted"),
    ("cost_fit_r_squared", "Share of the steps' spread that the last fit explains.",
     "cost_fit_r_squared"),
)  # fmt: skip


def exposition(
    figures: list[GroupFigures],
    meters: list[dict[str, Any] | None],
    totals: Mapping[int, Totals],
    kv_readers: KvReaders | None = None,
) -> bytes:
    """Everything in Prometheus' text format.  totals: by dp_rank, of groups that told them."""
    metrics = (
        *group_metrics(figures, meters),
        *group_totals(totals),
        *front_door_metrics(meters),
        *kv_metrics(kv_readers),
    )
    registry = CollectorRegistry()
    registry.register(_Scrape(list(metrics)))
    return generate_latest(registry)


class _Scrape:
    """A collector for one scrape."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics

    def describe(self) -> list[Metric]:
        return []


def group_metrics(
    figures: list[GroupFigures], meters: list[dict[str, Any] | None]
) -> Iterator[Metric]:
    """Figures by DP group, and how level they are."""
    yield from _reported(figures)
    yield from _ledger(figures, meters)
    state = GaugeMetricFamily(
        "levelhead_group_state", "1 for the group's present state.", labels=("group", "state")
    )
    for group in figures:
        for each in GroupState:
            state.add_metric(
                (str(group.entry.dp_rank), each.value), float(group.entry.state is each)
            )
    yield state
    yield conditions(figures)
    yield GaugeMetricFamily(
        "levelhead_imbalance_ratio",
        "Largest over mean of holding + in-flight tokens, over ready groups; 1 is level.",
        value=imbalance(figures),
    )


def group_totals(totals: Mapping[int, Totals]) -> Iterator[Metric]:
    """What the requests that have left a group amounted to, since its present life began."""
    for name, text, field in _TOTALS:
        counter = CounterMetricFamily(f"levelhead_{name}", text, labels=_GROUP)
        for dp_rank, told in totals.items():
            counter.add_metric((str(dp_rank),), getattr(told, field))
        yield counter


def _reported(figures: list[GroupFigures]) -> Iterator[Metric]:
    for name, text, field in _REPORTED:
        gauge = GaugeMetricFamily(f"levelhead_{name}", text, labels=_GROUP)
        for group in figures:
            if group.report is not None:
                gauge.add_metric((str(group.entry.dp_rank),), getattr(group.report, field))
        yield gauge
    usage = GaugeMetricFamily(
        "levelhead_kv_usage_ratio", "KV tokens used over KV capacity.", labels=_GROUP
    )
    step = GaugeMetricFamily(
        "levelhead_step_time_seconds", "Duration of the group's last step.", labels=_GROUP
    )
    steps = CounterMetricFamily("levelhead_steps", "Steps the group has run.", labels=_GROUP)
    age = GaugeMetricFamily(
        "levelhead_report_age_seconds", "Since the group's report was sampled.", labels=_GROUP
    )
    for group in figures:
        report, labels = group.report, (str(group.entry.dp_rank),)
        if report is None:
            continue
        usage.add_metric(labels, report.kv_used_tokens / max(1, report.kv_capacity_tokens))
        step.add_metric(labels, report.step_time_ns * _NS)
        steps.add_metric(labels, report.num_steps)
        age.add_metric(labels, group.age_s or 0.0)
    yield from (usage, step, steps, age)


def _ledger(figures: list[GroupFigures], meters: list[dict[str, Any] | None]) -> Iterator[Metric]:
    tokens = GaugeMetricFamily(
        "levelhead_in_flight_tokens", "Sent to the group, not yet in its holding.", labels=_GROUP
    )
    requests = GaugeMetricFamily(
        "levelhead_in_flight_requests", "Sent to the group, not yet accepted.", labels=_GROUP
    )
    drift = GaugeMetricFamily(
        "levelhead_ledger_drift_tokens",
        "Holding + in-flight tokens less what the front doors' own books say.",
        labels=_GROUP,
    )
    for group in figures:
        labels = (str(group.entry.dp_rank),)
        tokens.add_metric(labels, group.in_flight.tokens)
        requests.add_metric(labels, group.in_flight.requests)
        if group.report is not None and all(meters):
            books = sum(door["book"][group.entry.dp_rank][0] for door in meters if door)
            drift.add_metric(labels, group.tokens - books)
    yield from (tokens, requests, drift)


def front_door_metrics(meters: list[dict[str, Any] | None]) -> Iterator[Metric]:
    """What the front doors counted; one that does not answer has no series but its `up`."""
    up = GaugeMetricFamily(
        "levelhead_front_door_up", "1 if the front door answers.", labels=("front_door",)
    )
    for slot, door in enumerate(meters):
        up.add_metric((str(slot),), float(door is not None))
    yield up
    doors = [door for door in meters if door is not None]
    yield _dispatches(doors)
    for name, text, label in _KEYED:
        yield _by_key(doors, name, text, label)
    yield from _stale(doors)
    for name, text, key in _HISTOGRAMS:
        yield _histogram(doors, name, text, key)
    for family, specs in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, text, key in specs:
            metric = family(f"levelhead_{name}", text, labels=("front_door",))
            for door in doors:
                metric.add_metric((str(door["slot"]),), door[key])
            yield metric


def _dispatches(doors: list[dict[str, Any]]) -> Metric:
    counter = CounterMetricFamily(
        "levelhead_dispatches",
        "Requests assigned to a group.",
        labels=("front_door", "method", "group"),
    )
    for door in doors:
        for dp_rank, count in enumerate(door["dispatches"]):
            counter.add_metric((str(door["slot"]), door["method"], str(dp_rank)), count)
    return counter


def _stale(doors: list[dict[str, Any]]) -> Iterator[Metric]:
    labels = ("front_door", "group")
    now = GaugeMetricFamily(
        "levelhead_stale_figures",
        "1 while the group's figures are too old to count.",
        labels=labels,
    )
    times = CounterMetricFamily(
        "levelhead_stale_transitions", "Times the group's figures became too old.", labels=labels
    )
    for door in doors:
        slot = str(door["slot"])
        for dp_rank, is_stale in enumerate(door["stale_groups"]):
            now.add_metric((slot, str(dp_rank)), is_stale)
        for dp_rank, count in enumerate(door["stale_transitions"]):
            times.add_metric((slot, str(dp_rank)), count)
    yield from (now, times)


def _by_key(doors: list[dict[str, Any]], name: str, text: str, label: str) -> Metric:
    counter = CounterMetricFamily(f"levelhead_{name}", text, labels=("front_door", label))
    for door in doors:
        for key, count in door[name].items():
            counter.add_metric((str(door["slot"]), key), count)
    return counter


def _histogram(doors: list[dict[str, Any]], name: str, text: str, key: str) -> Metric:
    histogram = HistogramMetricFamily(f"levelhead_{name}", text, labels=("front_door",))
    for door in doors:
        measured, below, buckets = door[key], 0, []
        bounds = [*(repr(bound) for bound in measured["bounds"]), "+Inf"]
        for bound, count in zip(bounds, measured["counts"], strict=True):
            below += count
            buckets.append((bound, below))
        histogram.add_metric((str(door["slot"]),), buckets, measured["total"])
    return histogram
