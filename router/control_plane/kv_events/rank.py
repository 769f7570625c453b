"""
What is known of one rank's cache, from the batches that are handed to it.

    lost ──► begun ──► batches ──┬── next one: taken
     ▲                           ├── behind a gap: what is missing is asked for; if it does not
     │                           │   come, all is forgotten, and what follows is taken
     │                           ├── anew: all is forgotten, and this one is taken
     └── connection lost:        └── cannot be read: all is forgotten
         all is forgotten

An index that says too much sends requests to where nothing is, one that says too little costs
what it does not find: so whenever something was missed, nothing is known.  Nor does what is known
outlive its connection, for who answers next may be another life of the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from router.backends.backend import Kind
from router.control_plane.kv_events.block_map import BlockMap, Unchained
from router.control_plane.kv_events.condition import KvCondition, KvTally, Reset
from router.control_plane.kv_events.events import KvEvent, Unreadable
from router.control_plane.kv_events.group_feed import GroupFeed
from router.control_plane.kv_events.sequence import Place, Sequence
from router.control_plane.kv_events.source import RankSource

_log = logging.getLogger("levelhead.control_plane")


class Batch(NamedTuple):
    """As it was published."""

    number: int
    payload: bytes


class Rank:
    """Owns map, numbers and feed of one rank; does no I/O."""

    def __init__(self, source: RankSource, decoded: Callable[[bytes], list[KvEvent]]) -> None:
        """`decoded`: the events of a payload; raises Unreadable."""
        self.source = source
        self._decoded = decoded
        self.tally = KvTally()
        self.blocks = BlockMap(self.tally, counts_copies=source.engine == Kind.VLLM)
        self.feed = GroupFeed(source.group_epoch, self.blocks)
        self.condition: KvCondition | None = KvCondition.DISCONNECTED
        self._sequence = Sequence()
        self._why_not = ""

    def connected(self) -> None:
        """A publisher answers, whose numbers are not known yet."""
        self._sequence = Sequence()
        self._is_now(None)

    def lost(self) -> None:
        """Nobody answers any more."""
        self._forget(Reset.DISCONNECTED)
        self._is_now(KvCondition.DISCONNECTED)

    def cannot_listen(self, why: str) -> None:
        """No socket can be had, or none to that endpoint; it is tried again."""
        self.lost()
        self._sequence = Sequence()
        if why != self._why_not:
            self._why_not = why
            _log.warning(
                "DP group %d: its KV events at %s cannot be listened to: %s",
                self.source.dp_rank, self.source.endpoint, why,
            )  # fmt: skip

    @property
    def due(self) -> int:
        """The number of the first batch that was not taken."""
        return self._sequence.next or 0

    def misses(self, batch: Batch) -> bool:
        """Whether anything is missing before a batch that came live; asked once of each."""
        place = self._sequence.place(batch.number)
        if place is Place.ANEW:
            self._forget(Reset.RESTART)
            return batch.number > 0
        return place is Place.BEHIND_A_GAP

    def take_live(self, batch: Batch) -> None:
        """Take over a batch that came live, once all that may be repeated was."""
        due = self._sequence.next
        if due is not None and batch.number < due:
            return  # it was repeated
        if due is not None and batch.number > due:
            self._forget(Reset.GAP)
        self._take(batch)

    def take_repeated(self, batch: Batch) -> None:
        """Take over a batch that was asked for again, unless it is known."""
        due = self._sequence.next
        if due is None or batch.number >= due:
            self.tally.num_repeated += 1
            self.take_live(batch)

    def _take(self, batch: Batch) -> None:
        self._sequence.took(batch.number)
        self.tally.num_batches += 1
        if self.condition is KvCondition.UNCHAINED:
            return
        try:
            for event in self._decoded(batch.payload):
                change = self.blocks.take(event)
                if change is not None:
                    self.feed.tell(change)
        except Unreadable as error:
            self._forget(Reset.MALFORMED)
            self._is_now(KvCondition.MALFORMED, str(error))
        except Unchained as error:
            self._forget(Reset.UNCHAINED)
            self._is_now(KvCondition.UNCHAINED, str(error))
        else:
            self._is_now(None)

    def _forget(self, reset: Reset) -> None:
        """Know nothing; counted if there was something to know, or something was missed."""
        if reset is not Reset.DISCONNECTED or self._sequence.next is not None:
            self.tally.resets[reset] += 1
        self.blocks.forget()
        self.feed.begin()

    def _is_now(self, condition: KvCondition | None, why: str = "") -> None:
        """One line at each transition."""
        before, self.condition = self.condition, condition
        if before is condition:
            return
        rank, endpoint = self.source.dp_rank, self.source.endpoint
        if condition is None:
            _log.info("DP group %d: its KV events are read at %s", rank, endpoint)
            return
        _log.warning(
            "DP group %d: nothing is known of its prefix cache, its KV events at %s are %s%s",
            rank, endpoint, condition, why and f": {why}",
        )  # fmt: skip
