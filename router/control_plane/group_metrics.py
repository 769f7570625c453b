"""Metrics of DP groups: what they report, what their requests amounted to, how level they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.control_plane.backend_metrics import conditions
from router.control_plane.figures import GroupFigures, imbalance
from router.control_plane.totals import Totals
from shm.group_table import GroupState

_NS = 1e-9
_GROUP = ("group",)

# name, help, field of Totals
_TOTALS = (
    ("group_prompt_tokens",
     "Prompt tokens of requests that have left the group, finished or not, in its present life; "
     "one that does not answer has none of these six.",
     "prompt_tokens"),
    ("group_cached_tokens", "Of those, found in the prefix cache.", "cached_tokens"),
    ("group_computed_tokens",
     "Of those, computed; each once, however often its request was retracted, so these two sum up "
     "to the prompt tokens less what aborted and failed requests had not reached.",
     "computed_tokens"),
    ("group_recomputed_tokens",
     "Tokens of prompts and outputs that were computed again after a retraction.",
     "recomputed_tokens"),
    ("group_output_tokens", "Output tokens of requests that have left the group.",
     "output_tokens"),
    ("group_retractions", "Times that such a request had to give up its pages.", "retractions"),
)  # fmt: skip

# name, help, field of LoadReport
_REPORTED = (
    ("holding_tokens", "Tokens the group holds: KV of running and prompts of waiting requests.",
     "holding_tokens"),
    ("running_requests", "Requests in the group's batch.", "running_requests"),
    ("waiting_requests", "Requests in the group's queue.", "waiting_requests"),
    ("waiting_uncached_tokens", "Prompt tokens the group has yet to compute; of no backend.",
     "waiting_uncached_tokens"),
    ("kv_used_tokens",
     "KV tokens of the group's running requests; those that several share count for each.",
     "kv_used_tokens"),
    ("kv_capacity_tokens", "Tokens that fit the group's KV cache.", "kv_capacity_tokens"),
)  # fmt: skip
# What engines of other people do not tell; in their reports it is 0.
_OF_WORKERS = frozenset(("waiting_uncached_tokens", "step_time_ns", "num_steps"))


def group_metrics(
    figures: list[GroupFigures], meters: list[dict[str, Any] | None]
) -> Iterator[Metric]:
    """
    Figures by DP group, and how level they are.

    A dead one has its state alone: what it reported last would stand there as what it holds and
    runs, until a new life of it does, and that may have a model to load.
    """
    living = [group for group in figures if group.entry.state is not GroupState.DEAD]
    yield from _reported(living)
    yield from _ledger(living, meters)
    state = GaugeMetricFamily(
        "levelhead_group_state",
        "1 for the group's present state: starting, ready, suspect (figures stale and /health "
        "unanswered; a backend: unanswered, or not answered well), draining, released (its "
        "memory), dead.",
        labels=("group", "state"),
    )
    for group in figures:
        for each in GroupState:
            state.add_metric(
                (str(group.entry.dp_rank), each.value), float(group.entry.state is each)
            )
    yield state
    yield from _lives(figures)
    yield conditions(figures)
    yield GaugeMetricFamily(
        "levelhead_imbalance_ratio",
        "Largest over mean of levelhead_load_tokens, over ready groups, by their weights; 1 is "
        "level.",
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
            if group.report is not None and _is_told(group, field):
                gauge.add_metric((str(group.entry.dp_rank),), getattr(group.report, field))
        yield gauge
    usage = GaugeMetricFamily(
        "levelhead_kv_usage_ratio",
        "KV tokens used over KV capacity; shared ones count for each, so it may exceed 1.",
        labels=_GROUP,
    )
    step = GaugeMetricFamily(
        "levelhead_step_time_seconds",
        "Duration of the group's last step; of no backend.",
        labels=_GROUP,
    )
    steps = CounterMetricFamily(
        "levelhead_steps", "Steps the group has run; of no backend.", labels=_GROUP
    )
    age = GaugeMetricFamily(
        "levelhead_report_age_seconds", "Since the group's report was sampled.", labels=_GROUP
    )
    for group in figures:
        report, labels = group.report, (str(group.entry.dp_rank),)
        if report is None:
            continue
        usage.add_metric(labels, report.kv_used_tokens / max(1, report.kv_capacity_tokens))
        age.add_metric(labels, group.age_s or 0.0)
        if _is_told(group, "num_steps"):
            step.add_metric(labels, report.step_time_ns * _NS)
            steps.add_metric(labels, report.num_steps)
    yield from (usage, step, steps, age)


def _is_told(group: GroupFigures, field: str) -> bool:
    """Whether that field of its report is a figure: what is not known is no 0."""
    return not (group.entry.is_backend and field in _OF_WORKERS)


def _lives(figures: list[GroupFigures]) -> Iterator[Metric]:
    epoch = GaugeMetricFamily(
        "levelhead_group_epoch",
        "Number of the group's present life; each change of it is a restart.",
        labels=_GROUP,
    )
    model = GaugeMetricFamily(
        "levelhead_group_model",
        "1: what the group serves, and the kind of its engine.",
        labels=("group", "model", "engine"),
    )
    for group in figures:
        entry, labels = group.entry, (str(group.entry.dp_rank),)
        if entry.epoch:
            epoch.add_metric(labels, entry.epoch)
        model.add_metric((*labels, entry.model, entry.engine or "levelhead"), 1.0)
    yield from (epoch, model)


def _ledger(figures: list[GroupFigures], meters: list[dict[str, Any] | None]) -> Iterator[Metric]:
    tokens = GaugeMetricFamily(
        "levelhead_in_flight_tokens", "Sent to the group, not yet in its holding.", labels=_GROUP
    )
    requests = GaugeMetricFamily(
        "levelhead_in_flight_requests", "Sent to the group, not yet accepted.", labels=_GROUP
    )
    load = GaugeMetricFamily(
        "levelhead_load_tokens",
        "What is compared of groups, before their weights: holding + in-flight tokens; of a "
        "backend the books, and what it holds beyond them.",
        labels=_GROUP,
    )
    drift = GaugeMetricFamily(
        "levelhead_ledger_drift_tokens",
        "Holding + in-flight tokens less what the front doors' own books say; what is in flight "
        "and believed to be cached is in the books alone.",
        labels=_GROUP,
    )
    for group in figures:
        labels = (str(group.entry.dp_rank),)
        tokens.add_metric(labels, group.in_flight.tokens)
        requests.add_metric(labels, group.in_flight.requests)
        load.add_metric(labels, group.tokens)
        if group.report is not None and all(meters):
            books = sum(door["book"][group.entry.dp_rank][0] for door in meters if door)
            drift.add_metric(labels, group.tokens - books)
    yield from (tokens, requests, load, drift)
