"""
The metrics: figures of groups and meters of front doors, under Prometheus names.

Made anew for each scrape out of the segments, the front doors' counters and the
groups' totals, so there is no state here to go stale.  Series of front doors
carry the label `front_door`: when one restarts, its series start at zero as
Prometheus expects, and nobody else's do.  Labels are bounded: docs/metrics.md
says how, and is made of what stands here (deploy.metrics_page).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from router.backends.standing import Standing
from router.control_plane.backend_metrics import source_metrics
from router.control_plane.barrier_metrics import barrier_metrics
from router.control_plane.figures import GroupFigures
from router.control_plane.group_metrics import group_metrics, group_totals
from router.control_plane.health_metrics import health_metrics
from router.control_plane.kv_events.metrics import kv_metrics
from router.control_plane.kv_events.readers import KvReaders
from router.control_plane.scrape import Scrape
from router.control_plane.totals import Totals

# name, help, key of the meters
_HISTOGRAMS = (
    ("time_to_first_token_seconds", "Request read to first token passed on, of streams.", "ttft_s"),
    ("inter_token_latency_seconds", "Between two pieces of a stream.", "inter_token_s"),
    (
        "e2e_request_latency_seconds",
        "Request read to answer complete, if it is 200 and whole.",
        "end_to_end_s",
    ),
    ("front_door_wait_seconds", "Counted to dispatched, where requests may wait.", "waited_s"),
    ("decision_seconds", "Reading the figures and choosing a group.", "decision_s"),
    ("figure_age_seconds", "Age of the chosen group's report when it was chosen.", "figure_age_s"),
)

# name, help, key of the meters
_COUNTERS = (
    ("client_disconnects", "Clients that left before their answer was complete.", "disconnects"),
    ("groups_lost", "Requests whose group was lost before the answer was complete.",
     "upstream_lost"),
    ("book_decisions",
     "Decisions for a group whose figures were stale or missing: it was weighed by the books.",
     "book_decisions"),
    ("torn_snapshots",
     "Times that no whole copy of the load segment could be taken; figures stay as they were.",
     "torn_snapshots"),
    ("front_door_overflows",
     "Requests refused because as many waited in the front door as may.", "waiting_overflows"),
    ("retries_over_budget",
     "Requests that were lost or refused and not sent to another group, because of "
     "--retry-budget-percent.", "retries_over_budget"),
    ("predicted_cached_tokens",
     "Prompt tokens that the chosen groups were believed to have cached (slack_affinity, auto); "
     "the answers' cached_tokens say what was so.", "predicted_cached_tokens"),
    ("front_door_received_bytes", "From clients.", "received_bytes"),
    ("front_door_sent_bytes", "To clients.", "sent_bytes"),
    ("front_door_cpu_seconds", "CPU time of the front door's process.", "cpu_s"),
)  # fmt: skip
# name and key of the meters, help, label, and its values that have a series from the start: a
# rate of something that has not happened is 0, and not unknown
KEYED = (
    ("responses", "Answers to inference requests; 499: the client left first.", "status",
     ("200", "400", "499", "500", "502", "503")),
    ("prompt_tokens", "Prompt tokens of requests, by how they were counted.", "source",
     ("exact", "estimated")),
    ("retries",
     "Requests sent to another group, because theirs was unreachable, lost, refused them or was "
     "of the wrong_epoch; sent on because an engine had not_there what they ask for; and sent to "
     "the same group again because it had closed the connection that waited.", "reason",
     ("unreachable", "lost", "refused", "wrong_epoch", "not_there", "closed")),
    ("settlements",
     "Connections lost after the request was written, settled: the group had seen it, had it "
     "unseen, or its epoch_over.", "outcome", ("seen", "unseen", "epoch_over")),
)  # fmt: skip
_GAUGES = (
    ("open_connections", "Client connections.", "open_connections"),
    ("open_requests", "Inference requests under way.", "open_requests"),
    ("open_streams", "Streams that have begun and not ended.", "open_streams"),
    ("front_door_waiting_requests", "Requests that wait or are held in the front door.",
     "waiting_requests"),
    ("prefix_groups",
     "Groups that tell this front door what they have cached, and were heard of in the last 10 s "
     "(slack_affinity, auto).", "prefix_groups"),
    ("prefix_digests",
     "Cached pages that this front door knows of, over all groups; at most 262,144.",
     "prefix_digests"),
    ("open_settlements",
     "Connections lost after the request was written that no group has answered for yet; asked "
     "again until one has, or its epoch is over.", "open_settlements"),
    ("cost_per_token_seconds",
     "What a held token adds to a step, by the cost model in use: its coefficient a.",
     "cost_per_token_s"),
    ("cost_per_request_seconds", "What a request adds to a step: b.", "cost_per_request_s"),
    ("cost_per_prefill_token_seconds", "What computing a prompt token adds to a step: c.",
     "cost_per_prefill_token_s"),
    ("cost_is_fitted", "1 if these are fitted to reported steps, 0 if they are the prior's.",
     "cost_is_fitted"),
    ("cost_fit_r_squared",
     "Share of the steps' spread that the last fit explains; under 0.5 it is not used.",
     "cost_fit_r_squared"),
)  # fmt: skip


def exposition(
    figures: list[GroupFigures],
    meters: list[dict[str, Any] | None],
    totals: Mapping[int, Totals],
    sources: Sequence[Standing] = (),
    kv_readers: KvReaders | None = None,
) -> bytes:
    """Everything in Prometheus' text format.  totals: by dp_rank, of groups that told them."""
    metrics = (
        *group_metrics(figures, meters),
        *group_totals(totals),
        *barrier_metrics(totals),
        *front_door_metrics(meters, {group.entry.dp_rank for group in figures}),
        *source_metrics(sources),
        *kv_metrics(kv_readers),
    )
    registry = CollectorRegistry()
    registry.register(Scrape(list(metrics)))
    return generate_latest(registry)


def front_door_metrics(
    meters: list[dict[str, Any] | None], ranks: Collection[int]
) -> Iterator[Metric]:
    """
    What the front doors counted; one that does not answer has no series but its `up`.

    ranks: of the groups that there are.  No other one has a series.
    """
    up = GaugeMetricFamily(
        "levelhead_front_door_up", "1 if the front door answers.", labels=("front_door",)
    )
    for slot, door in enumerate(meters):
        up.add_metric((str(slot),), float(door is not None))
    yield up
    doors = [door for door in meters if door is not None]
    yield _epochs(doors)
    yield _dispatches(doors, ranks)
    for name, text, label, known in KEYED:
        yield _by_key(doors, name, text, label, known)
    yield from _stale(doors, ranks)
    yield from health_metrics(doors, ranks)
    for name, text, key in _HISTOGRAMS:
        yield _histogram(doors, name, text, key)
    for family, specs in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, text, key in specs:
            metric = family(f"levelhead_{name}", text, labels=("front_door",))
            for door in doors:
                metric.add_metric((str(door["slot"]),), door[key])
            yield metric


def _epochs(doors: list[dict[str, Any]]) -> Metric:
    gauge = GaugeMetricFamily(
        "levelhead_front_door_epoch",
        "Number of the front door's present life; each change of it is a restart.",
        labels=("front_door",),
    )
    for door in doors:
        gauge.add_metric((str(door["slot"]),), door["epoch"])
    return gauge


def _dispatches(doors: list[dict[str, Any]], ranks: Collection[int]) -> Metric:
    counter = CounterMetricFamily(
        "levelhead_dispatches",
        "Requests assigned to a group.",
        labels=("front_door", "method", "group"),
    )
    for door in doors:
        for dp_rank, count in _of_groups(door["dispatches"], ranks):
            counter.add_metric((str(door["slot"]), door["method"], str(dp_rank)), count)
    return counter


def _stale(doors: list[dict[str, Any]], ranks: Collection[int]) -> Iterator[Metric]:
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
        for dp_rank, is_stale in _of_groups(door["stale_groups"], ranks):
            now.add_metric((slot, str(dp_rank)), is_stale)
        for dp_rank, count in _of_groups(door["stale_transitions"], ranks):
            times.add_metric((slot, str(dp_rank)), count)
    yield from (now, times)


def _of_groups(counts: Sequence[int], ranks: Collection[int]) -> list[tuple[int, int]]:
    return [(dp_rank, count) for dp_rank, count in enumerate(counts) if dp_rank in ranks]


def _by_key(
    doors: list[dict[str, Any]], name: str, text: str, label: str, known: Sequence[str]
) -> Metric:
    counter = CounterMetricFamily(f"levelhead_{name}", text, labels=("front_door", label))
    for door in doors:
        for key, count in (dict.fromkeys(known, 0) | door[name]).items():
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
