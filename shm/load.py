"""
The load segment: what every group holds, written by the publisher,
which is the leader that holds a lock (workers.ranks.term).

    body of a record (signed 64-bit words)
    0      number of groups reported
    1      number of front-door slots
    2..    one report for each group, LoadReport.num_words(slots) words

    word   report
    0..13  the scalar fields of LoadReport, in order
    14..   for each front-door slot: the fields of Accepted, in order

A report tells at one instant what a group holds, what it has accepted so far
from each front door, and what of that has ended.  All change in the same report,
which is what lets a front door subtract exactly (see balancer.ledger and
balancer.departures).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from shm import double_buffer, segment
from shm.errors import InvalidRecord, PayloadTooLarge
from shm.names import Kind, segment_name
from shm.segment import WORD_BYTES, Segment

_BODY_HEAD = struct.Struct("<qq")
ENDED_IDS_MASK = (1 << 63) - 1
"""Sums of ids are kept to what a word holds that is not negative."""


class Ended(NamedTuple):
    """Requests that hold nothing any more: how many, and which."""

    requests: int
    ids: int
    """Sum of their dp_balance_ids, as numbers, modulo 2**63."""

    def plus(self, dp_balance_id: int) -> Ended:
        """With one more; its id is told as a hexadecimal number."""
        return Ended(self.requests + 1, (self.ids + dp_balance_id) & ENDED_IDS_MASK)


class Accepted(NamedTuple):
    """
    What a group has taken over from one front door, since that front door's epoch began.

    Ended are those of the accepted requests that hold nothing any more.  Who does not count
    them says that all have: then nobody waits to hear of an end.
    """

    front_door_epoch: int
    tokens: int
    requests: int
    ended_requests: int
    ended_ids: int

    @property
    def ended(self) -> Ended:
        """What of it has ended."""
        return Ended(self.ended_requests, self.ended_ids)


_ACCEPTED_WORDS = len(Accepted._fields)


class LoadReport(NamedTuple):
    """What one group says of itself at one instant."""

    dp_rank: int
    group_epoch: int
    sampled_ns: int
    """CLOCK_MONOTONIC of the host that publishes."""
    holding_tokens: int
    running_requests: int
    waiting_requests: int
    waiting_uncached_tokens: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    max_requests: int
    """Running and waiting requests that the group takes before it refuses."""
    num_steps: int
    step_time_ns: int
    """Duration of the last step; 0 before the first."""
    step_prefill_tokens: int
    """Prompt tokens computed in that step."""
    computing_tokens: int
    """Of waiting_uncached_tokens, what the step under way computes; 0 between steps."""
    accepted: tuple[Accepted, ...]
    """One for each front-door slot."""

    @staticmethod
    def num_words(num_front_doors: int) -> int:
        """Words of one report."""
        return _SCALAR_WORDS + num_front_doors * _ACCEPTED_WORDS

    def to_words(self) -> tuple[int, ...]:
        """Flat words in layout order, as they travel through the gather."""
        return self[:-1] + tuple(word for slot in self.accepted for word in slot)

    @classmethod
    def from_words(cls, words: Sequence[int]) -> LoadReport:
        """Inverse of to_words."""
        rest = iter(words[_SCALAR_WORDS:])
        slots = zip(*[rest] * _ACCEPTED_WORDS, strict=True)
        return cls._make((*words[:_SCALAR_WORDS], tuple(map(Accepted._make, slots))))


_SCALAR_WORDS = len(LoadReport._fields) - 1
# From one tuple of all fields; a NamedTuple's _make does the same with a Python frame.
_ACCEPTED = partial(tuple.__new__, Accepted)
_REPORT = partial(tuple.__new__, LoadReport)


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """A consistent copy of all reports."""

    sequence: int
    published_ns: int
    reports: tuple[LoadReport, ...]


def body_bytes(num_groups: int, num_front_doors: int) -> int:
    """Size of a record's body for that many groups and front-door slots."""
    return _BODY_HEAD.size + num_groups * LoadReport.num_words(num_front_doors) * WORD_BYTES


def create(instance: str, num_groups: int, num_front_doors: int, epoch: int) -> Segment:
    """Make instance's load segment; the caller owns it and unlinks it."""
    size = double_buffer.payload_bytes(body_bytes(num_groups, num_front_doors))
    return segment.create(segment_name(instance, Kind.LOAD), Kind.LOAD, size, epoch)


class LoadWriter:
    """The publisher's side."""

    def __init__(self, load_segment: Segment, num_groups: int, num_front_doors: int) -> None:
        self._segment = load_segment
        self._buffer = double_buffer.DoubleBufferWriter(load_segment)
        self._num_front_doors = num_front_doors
        self._report = struct.Struct(f"<{LoadReport.num_words(num_front_doors)}q")
        needed = body_bytes(num_groups, num_front_doors)
        if needed > self._buffer.capacity_bytes:
            raise PayloadTooLarge(
                f"{load_segment.name} has room for {self._buffer.capacity_bytes} bytes, "
                f"{num_groups} groups and {num_front_doors} front doors need {needed}"
            )

    @classmethod
    def attach(cls, instance: str, num_groups: int, num_front_doors: int) -> LoadWriter:
        """Open instance's load segment to write; raises as shm.segment.attach does."""
        name = segment_name(instance, Kind.LOAD)
        opened = segment.attach(name, Kind.LOAD, writable=True)
        return cls(opened, num_groups, num_front_doors)

    def publish(self, reports: Iterable[LoadReport], published_ns: int) -> None:
        """Publish the reports known so far: any groups, any order, each at most once."""
        packed = [self._report.pack(*report.to_words()) for report in reports]
        head = _BODY_HEAD.pack(len(packed), self._num_front_doors)
        self._buffer.publish(head + b"".join(packed), published_ns)

    def close(self) -> None:
        """Unmap the segment."""
        self._segment.close()


class LoadReader:
    """A reader's side: front doors, control plane, `levelhead top`."""

    def __init__(self, load_segment: Segment) -> None:
        self._segment = load_segment
        self._buffer = double_buffer.DoubleBufferReader(load_segment)
        self._seen: tuple[bytes, ...] = ()

    @classmethod
    def attach(cls, instance: str) -> LoadReader:
        """Open instance's load segment to read; raises as shm.segment.attach does."""
        return cls(segment.attach(segment_name(instance, Kind.LOAD), Kind.LOAD))

    @property
    def epoch(self) -> int:
        """Epoch of the instance."""
        return self._segment.epoch

    @property
    def current_sequence(self) -> int:
        """Sequence of the current record, one load; 0 before the first."""
        return self._buffer.current_sequence

    def snapshot(self) -> LoadSnapshot | None:
        """Copy all reports; None if nothing was published yet.  Raises TornRead."""
        record = self._buffer.snapshot()
        if record is None:
            return None
        packed = _packed_reports(record.body)
        return LoadSnapshot(record.sequence, record.published_ns, _unpack(packed))

    def changed(self) -> LoadSnapshot | None:
        """
        As snapshot, but with only the reports that differ from those of the last call.

        With a thousand groups most reports are the same from one record to the
        next, and comparing bytes is cheaper than unpacking them.
        """
        record = self._buffer.snapshot()
        if record is None:
            return None
        packed = _packed_reports(record.body)
        seen, self._seen = self._seen, packed
        if len(seen) == len(packed):
            packed = tuple(new for new, old in zip(packed, seen, strict=True) if new != old)
        return LoadSnapshot(record.sequence, record.published_ns, _unpack(packed))

    def close(self) -> None:
        """Unmap the segment."""
        self._segment.close()


def _packed_reports(body: bytes) -> tuple[bytes, ...]:
    num_groups, num_front_doors = _BODY_HEAD.unpack_from(body)
    if len(body) != body_bytes(num_groups, num_front_doors):
        raise InvalidRecord(
            f"load record of {len(body)} bytes, {num_groups} groups and {num_front_doors} front "
            f"doors have {body_bytes(num_groups, num_front_doors)}"
        )
    size = LoadReport.num_words(num_front_doors) * WORD_BYTES
    return tuple(body[start : start + size] for start in range(_BODY_HEAD.size, len(body), size))


def _unpack(packed: tuple[bytes, ...]) -> tuple[LoadReport, ...]:
    """
    Reports from their bytes, as LoadReport.from_words makes them one by one.

    A front door does this for every group and all the time, so it goes by
    columns: a word of all reports at once, in C.
    """
    if not packed:
        return ()
    words, num_words = array("q", b"".join(packed)), len(packed[0]) // WORD_BYTES
    columns = [words[column::num_words] for column in range(num_words)]
    scalars, rest = columns[:_SCALAR_WORDS], iter(columns[_SCALAR_WORDS:])
    words_of_slots = zip(*[rest] * _ACCEPTED_WORDS, strict=True)
    slots = [map(_ACCEPTED, zip(*slot, strict=True)) for slot in words_of_slots]
    return tuple(map(_REPORT, zip(*scalars, zip(*slots, strict=True), strict=True)))
