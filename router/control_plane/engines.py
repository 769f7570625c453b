"""
The engines that have slots: which backend is which DP groups, and since when.

    admitted ──► serving ──► leaving ──► freed
                    ▲           │
                    └───────────┘ it is wanted again

Slots are dp_ranks; the lowest free ones are given.  With its slots an engine gets an epoch that
nobody had before, so whoever has a slot next is told from whoever had it (balancer.ledger).
Pure; what must not be forgotten is in `remembered`, which is written before the table
is: so no slot is ever given twice, and no epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from router.backends.backend import Backend, BackendGroup, Kind
from router.backends.kv_endpoint import of_rank
from router.control_plane.roster import recalled_backend
from router.errors import NoFreeSlot


@dataclass(frozen=True, slots=True)
class Engine:
    """One server, from when it got its slots until they are free again."""

    backend: Backend
    """As it is wanted."""
    groups: tuple[BackendGroup, ...]
    slots: tuple[int, ...]
    """One for each group."""
    epoch: int
    """Of all its groups, and its name: there is no other one with it."""
    since_s: float
    """Seconds since 1970 at which it got them."""
    leaving_ns: int | None = None
    """When it began to leave; None: it serves."""
    is_returning: bool = False
    """It was leaving, is wanted again, and the table may not say so yet."""

    @property
    def url(self) -> str:
        """Where it answers.  One that leaves and its follower may share it."""
        return self.backend.url

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.groups[0].kind

    @property
    def is_leaving(self) -> bool:
        """Whether it gets no request any more."""
        return self.leaving_ns is not None

    def fits(self, backend: Backend) -> bool:
        """Whether it is what is wanted, but for its weight: no setting says otherwise."""
        same = replace(self.backend, kind=None, dp_size=None, weight=backend.weight)
        return (
            same == replace(backend, kind=None, dp_size=None)
            and backend.kind in (None, self.kind)
            and backend.dp_size in (None, self.backend.dp_size, len(self.groups))
        )


class Engines:
    """Gives slots and epochs; belongs to the control plane."""

    def __init__(self, num_slots: int, first_epoch: int, wall_ns: Callable[[], int]) -> None:
        """Epochs begin at first_epoch; later ones are the time, or one more than the last."""
        self.num_slots = num_slots
        self._last_epoch = first_epoch - 1
        self._wall_ns = wall_ns
        self._by_epoch: dict[int, Engine] = {}

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._by_epoch.values()))

    def __contains__(self, engine: Engine) -> bool:
        return engine.epoch in self._by_epoch

    @property
    def num_free(self) -> int:
        """Slots that nobody has."""
        return self.num_slots - len(self._taken())

    def begin(self, backend: Backend, groups: Sequence[BackendGroup]) -> Engine:
        """One that was told at the start of the instance, in the first epochs of all."""
        return self._admit(backend, groups, self._last_epoch + 1)

    def admit(self, backend: Backend, groups: Sequence[BackendGroup]) -> Engine:
        """Give it slots.  Raises NoFreeSlot, and then nothing has changed."""
        return self._admit(backend, groups, max(self._wall_ns(), self._last_epoch + 1))

    def put(self, engine: Engine) -> None:
        """It has changed; its slots and its epoch have not."""
        self._by_epoch[engine.epoch] = engine

    def free(self, engine: Engine) -> None:
        """Its slots may be given to others."""
        del self._by_epoch[engine.epoch]

    def at(self, url: str) -> Engine | None:
        """The one there that serves; if none does, one that leaves."""
        there = [engine for engine in self if engine.url == url]
        return min(there, key=lambda engine: engine.is_leaving, default=None)

    def of_slot(self, dp_rank: int) -> Engine | None:
        """Whoever has it."""
        return next((engine for engine in self if dp_rank in engine.slots), None)

    def of_epoch(self, epoch: int) -> Engine | None:
        """The one of that name."""
        return self._by_epoch.get(epoch)

    def remembered(self) -> dict[str, Any]:
        """What a later life of the control plane has to be told."""
        return {"last_epoch": self._last_epoch, "engines": [asdict(engine) for engine in self]}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """What an earlier life had."""
        self._last_epoch = remembered["last_epoch"]
        self._by_epoch = {each["epoch"]: _engine_of(each) for each in remembered["engines"]}

    def check_integrity(self) -> None:
        """No slot is given twice, and none that there is not."""
        given = [slot for engine in self for slot in engine.slots]
        assert len(set(given)) == len(given)
        assert all(0 <= slot < self.num_slots for slot in given)
        assert all(epoch <= self._last_epoch for epoch in self._by_epoch)

    def _admit(self, backend: Backend, groups: Sequence[BackendGroup], epoch: int) -> Engine:
        taken = self._taken()
        free = [slot for slot in range(self.num_slots) if slot not in taken]
        if len(free) < len(groups):
            raise NoFreeSlot(backend.url, len(groups), len(free), self.num_slots)
        slots = tuple(free[: len(groups)])
        self._last_epoch = epoch
        engine = Engine(backend, tuple(groups), slots, epoch, self._wall_ns() / 1e9)
        self._by_epoch[epoch] = engine
        return engine

    def _taken(self) -> set[int]:
        return {slot for engine in self for slot in engine.slots}


def _engine_of(told: Mapping[str, Any]) -> Engine:
    groups = tuple(BackendGroup(**{**each, "kind": Kind(each["kind"])}) for each in told["groups"])
    known = {"groups": groups, "slots": tuple(told["slots"])}
    return Engine(**{**told, **known, "backend": recalled_backend(told["backend"])})


def told_of(groups: Sequence[BackendGroup]) -> dict[Backend, tuple[BackendGroup, ...]]:
    """What must have been said of groups that were found before the start, by engine."""
    by_url: dict[str, list[BackendGroup]] = {}
    for group in groups:
        by_url.setdefault(group.url, []).append(group)
    return {_said_of(mine[0]): tuple(mine) for mine in by_url.values()}


def _said_of(group: BackendGroup) -> Backend:
    """All but how many there are, which was found or said."""
    names = [field.name for field in fields(Backend) if field.name != "dp_size"]
    told = Backend(**{name: getattr(group, name) for name in names})
    back = -(group.engine_rank or 0)  # of rank 0 is what is said of an engine
    return replace(
        told,
        kv_events=of_rank(group.kv_events, back),
        kv_replay=of_rank(group.kv_replay, back),
    )
