"""Metrics of KV events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.control_plane.kv_events.condition import KvCondition, Reset, Unused
from router.control_plane.kv_events.rank import Rank
from router.control_plane.kv_events.readers import KvReaders


def kv_metrics(readers: KvReaders | None) -> Iterator[Metric]:
    """Of every group that publishes its events; None: nobody could be read."""
    ranks = readers.ranks if readers else []
    yield _conditions(ranks, readers.conditions() if readers else {})
    pages = GaugeMetricFamily(
        "levelhead_kv_pages", "Pages that the group has cached, by its events.", labels=("group",)
    )
    batches = CounterMetricFamily(
        "levelhead_kv_batches", "Batches of events that were taken over.", labels=("group",)
    )
    repeated = CounterMetricFamily(
        "levelhead_kv_batches_repeated", "Of those, asked for again.", labels=("group",)
    )
    resets = CounterMetricFamily(
        "levelhead_kv_resets",
        "Times that all that was known of the group's cache was forgotten: disconnected, gap, "
        "restart, malformed, unchained.",
        labels=("group", "reason"),
    )
    unused = CounterMetricFamily(
        "levelhead_kv_blocks_unused",
        "Stored blocks that are not used: parent not known, lora, extra_keys, medium, attention, "
        "block_size, tokens, no room.",
        labels=("group", "reason"),
    )
    for rank in ranks:
        group, tally = str(rank.source.dp_rank), rank.tally
        pages.add_metric((group,), len(rank.blocks))
        batches.add_metric((group,), tally.num_batches)
        repeated.add_metric((group,), tally.num_repeated)
        for reset in Reset:
            resets.add_metric((group, reset.value), tally.resets[reset])
        for reason in Unused:
            unused.add_metric((group, reason.value), tally.unused[reason])
    yield from (pages, batches, repeated, resets, unused)


def _conditions(ranks: Iterable[Rank], found: Mapping[int, KvCondition]) -> Metric:
    gauge = GaugeMetricFamily(
        "levelhead_kv_condition",
        "1 while nothing is known of a backend's prefix cache, because its KV events are "
        "disconnected, malformed, unchained or differ in page_size.",
        labels=("group", "condition"),
    )
    for rank in ranks:
        dp_rank = rank.source.dp_rank
        for each in KvCondition:
            gauge.add_metric((str(dp_rank), each.value), float(found.get(dp_rank) is each))
    return gauge
