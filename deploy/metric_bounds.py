"""How many values each label of a metric can have: what bounds the number of series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from balancer.breaker import BreakerState
from router.backends.readings.reading import Condition
from router.control_plane.kv_events.condition import KvCondition, Reset, Unused
from router.control_plane.metrics import KEYED
from router.front_door.meters import AGE_BOUNDS_S, DECISION_BOUNDS_S, LATENCY_BOUNDS_S
from shm.group_table import GroupState
from workers.lockstep.barrier_totals import RATIO_BOUNDS, WAIT_BOUNDS_S


class Size(NamedTuple):
    """Of an instance.  Sources and statuses: as many as are taken for its bound."""

    num_groups: int
    num_front_doors: int
    num_sources: int = 8
    num_statuses: int = 16


class Bound(NamedTuple):
    """A factor of a number of series: one that a symbol stands for, or a plain number."""

    symbol: str
    number: int = 0

    def __str__(self) -> str:
        return self.symbol or str(self.number)

    def of(self, size: Size) -> int:
        """What it is for an instance of that size."""
        numbers = dict(zip("GFSH", size, strict=True))
        return numbers[self.symbol] if self.symbol else self.number


LABELS: Mapping[str, str] = MappingProxyType(
    {
        "group": "G: a DP group's number, from 0 on",
        "front_door": "F: its slot, from 0 on; a restarted one has that of its last life",
        "method": "one: that in use",
        "model": "one for each group: the name under which it is served",
        "engine": "one for each group: `levelhead` or the kind of a backend",
        "state": "a group's or a breaker's: see there",
        "condition": "see there",
        "reason": "see there",
        "outcome": "see there",
        "status": "H: the HTTP statuses that were answered: of three digits, some 16 in practice",
        "source": "`exact` or `estimated`; of backends S: the flags that name where they come from",
        "le": "bounds of a histogram's buckets, which are fixed",
    }
)
_BY_LABEL = MappingProxyType(
    {
        "group": Bound("G"),
        "front_door": Bound("F"),
        "status": Bound("H"),
        "source": Bound("S"),
    }
)
_PLAIN: Mapping[tuple[str, str], int] = MappingProxyType(
    {
        ("levelhead_group_state", "state"): len(GroupState),
        ("levelhead_breaker_transitions", "state"): len(BreakerState),
        ("levelhead_reading_condition", "condition"): len(Condition),
        ("levelhead_kv_condition", "condition"): len(KvCondition),
        ("levelhead_kv_resets", "reason"): len(Reset),
        ("levelhead_kv_blocks_unused", "reason"): len(Unused),
    }
    | {
        (f"levelhead_{name}", label): len(known)
        for name, _, label, known in KEYED
        if label != "status"
    }
)
# Labels that say something of what another one names.
_FOLLOW = frozenset(("method", "model", "engine"))
_BESIDE_BUCKETS = 3  # +Inf, _sum, _count
_BUCKETS: Mapping[str, int] = MappingProxyType(
    {
        "levelhead_decision_seconds": len(DECISION_BOUNDS_S),
        "levelhead_figure_age_seconds": len(AGE_BOUNDS_S),
        "levelhead_dp_attention_sync_wait_seconds": len(WAIT_BOUNDS_S),
    }
)


def factors(name: str, labels: Sequence[str], num_buckets: int = 0) -> list[Bound]:
    """
    What the number of a family's series is at most, as a product.

    num_buckets: of a histogram, see num_buckets().
    Raises KeyError for a label whose values nobody has counted.
    """
    found = [_bound(name, label) for label in labels if label not in _FOLLOW]
    return [*found, Bound("", num_buckets)] if num_buckets else found


def num_buckets(histogram: str) -> int:
    """Series of each of a histogram's label sets."""
    if histogram.endswith("_imbalance_ratio"):
        return len(RATIO_BOUNDS) + _BESIDE_BUCKETS
    return _BUCKETS.get(histogram, len(LATENCY_BOUNDS_S)) + _BESIDE_BUCKETS


def _bound(name: str, label: str) -> Bound:
    plain = _PLAIN.get((name, label))
    return _BY_LABEL[label] if plain is None else Bound("", plain)
