"""
What of a group's memory is there, and when it may be given back.

    all there ──release, idle──► some given back ──release──► all given back
        ▲                           │  nobody is let in           │
        └────────── resume, and warm up, when all is there ◄──────┘

Memory is in use as long as a request is held, so it is given back only when none is; who
wants that may have to ask again.  Prefixes go with either part, page by page, and the journal
says so: who gives weights back may do it to put others in their place, of which those keys and
values are none.  How many tokens the group can hold is still reported: it will again.

Belongs to the step loop, in which releasing takes a moment, and resuming as long as it takes
to read the weights; no request is held then that would wait for it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple, Protocol

from workers.engine.scheduler import Scheduler
from workers.errors import GroupBusy, MemoryReleased, NotReleasable
from workers.model.resident import Part


class Memory(Protocol):
    """What a runner computes with; ModelRunner has it."""

    def give_back(self, part: Part) -> int:
        """Free a part that is there; return its bytes."""

    def take_back(self, part: Part) -> int:
        """Have a part again; return its bytes."""

    def warm_up(self) -> None:
        """Get ready to compute."""


class Change(NamedTuple):
    """What came of a release or a resume.  released: what is given back now."""

    released: frozenset[Part]
    changed: frozenset[Part]
    num_bytes: int


class Occupation:
    """Of one group.  memory: a string says why there is none that can be given back."""

    def __init__(self, scheduler: Scheduler, memory: Memory | str) -> None:
        self._scheduler = scheduler
        self._memory = memory
        self._released: frozenset[Part] = frozenset()

    def look(self) -> frozenset[Part]:
        """Return what is given back now.  Raises NotReleasable if nothing ever can be."""
        self._releasable()
        return self._released

    def release(self, parts: Collection[Part]) -> Change:
        """Give those parts back that are there.  Raises NotReleasable or GroupBusy."""
        memory = self._releasable()
        changed = frozenset(parts) - self._released
        if changed and not self._scheduler.is_idle:
            raise GroupBusy(self._scheduler.num_requests)
        num_bytes = 0
        for part in sorted(changed):
            self._scheduler.tables.forget_prefixes()
            self._set_released(self._released | {part})
            num_bytes += memory.give_back(part)
        return Change(self._released, changed, num_bytes)

    def resume(self, parts: Collection[Part]) -> Change:
        """
        Have those parts again that were given back, and be ready if nothing is missing then.

        Raises NotReleasable, or what the memory raises: then that part is still given back.
        """
        memory = self._releasable()
        changed = frozenset(parts) & self._released
        num_bytes = 0
        for part in sorted(changed, reverse=True):  # the weights first: they may not be there
            num_bytes += memory.take_back(part)
            if self._released == {part}:
                memory.warm_up()
            self._set_released(self._released - {part})
        return Change(self._released, changed, num_bytes)

    def _set_released(self, parts: frozenset[Part]) -> None:
        self._released = parts
        self._scheduler.refuses = partial(MemoryReleased, parts) if parts else None

    def _releasable(self) -> Memory:
        if isinstance(self._memory, str):
            raise NotReleasable(self._memory)
        return self._memory
