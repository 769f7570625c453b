"""
One writer, many readers, no lock: two buffers and the sequence that names the current one.

    word 3 of the header   current sequence; 0 means that nothing was published yet
    payload                buffer 0, buffer 1; a record with sequence s lies in buffer s mod 2

    word  record
    0     sequence
    1     CRC-32 of words 0, 2, 3 and the body
    2     published_ns: writer's CLOCK_MONOTONIC
    3     body size in bytes
    4..   body

Who writes: one process, the buffer that is not current, and then word 3.
Who reads: anybody.  A reader loads word 3, copies that buffer in one go, and
keeps the copy only if it carries the same sequence and its checksum holds.

If the writer dies half way, word 3 still names the other buffer, which is
whole: readers neither wait nor see half a record.  If the writer overtakes a
reader twice during one copy, the checksum fails and the reader copies again.
If a processor lets word 3 be seen before the record (arm64), the checksum
fails likewise.  So nothing here relies on a memory-ordering rule; it relies
on CRC-32 to notice a mix of two records, and on both having the same owner.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from shm.errors import PayloadTooLarge, TornRead
from shm.segment import WORD_BYTES, Header, Segment

_RECORD_HEAD = struct.Struct("<QQqQ")  # sequence, checksum, published_ns, body bytes
_CHECKED_HEAD = struct.Struct("<QqQ")  # what of the head the checksum covers
_ATTEMPTS = 64


class Record(NamedTuple):
    """A consistent copy of what was published."""

    sequence: int
    published_ns: int
    body: bytes


def payload_bytes(body_bytes: int) -> int:
    """Payload that a segment needs for records of at most body_bytes."""
    return 2 * _buffer_bytes(body_bytes)


def _buffer_bytes(body_bytes: int) -> int:
    words = -(-(_RECORD_HEAD.size + body_bytes) // WORD_BYTES)
    return words * WORD_BYTES


def _checksum(sequence: int, published_ns: int, body: bytes | memoryview) -> int:
    head = _CHECKED_HEAD.pack(sequence, published_ns, len(body))
    return zlib.crc32(body, zlib.crc32(head))


class DoubleBufferWriter:
    """The one writer of a segment.  A writer that comes back continues the sequence."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._stride = len(segment.payload) // 2
        self.capacity_bytes = self._stride - _RECORD_HEAD.size

    def publish(self, body: bytes, published_ns: int) -> int:
        """
        Make body the current record and return its sequence.

        Raises PayloadTooLarge before anything is written.
        """
        if len(body) > self.capacity_bytes:
            raise PayloadTooLarge(
                f"{self._segment.name}: {len(body)} bytes to publish, room for "
                f"{self.capacity_bytes}"
            )
        words = self._segment.words
        sequence = words[Header.CURRENT] + 1
        checksum = _checksum(sequence, published_ns, body)
        record = _RECORD_HEAD.pack(sequence, checksum, published_ns, len(body)) + body
        start = sequence % 2 * self._stride
        self._segment.payload[start : start + len(record)] = record
        words[Header.CURRENT] = sequence  # last: from here on it is the current one
        return sequence


class DoubleBufferReader:
    """One of many readers of a segment."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._stride = len(segment.payload) // 2
        self._words = segment.words
        self._payload = segment.payload

    @property
    def current_sequence(self) -> int:
        """Sequence of the current record, one load: 0 before the first."""
        return self._words[Header.CURRENT]

    def snapshot(self, attempts: int = _ATTEMPTS) -> Record | None:
        """
        Copy the current record; None if nothing was published yet.

        Raises TornRead if attempts copies in a row were inconsistent, which
        takes a writer that overtakes each of them, or damaged memory.
        """
        sequence = 0
        for _ in range(attempts):
            sequence = self._words[Header.CURRENT]
            if sequence == 0:
                return None
            start = sequence % 2 * self._stride
            record = self._copy(sequence, bytes(self._payload[start : start + self._stride]))
            if record is not None:
                return record
        raise TornRead(
            f"{self._segment.name}: {attempts} copies in a row were inconsistent "
            f"(the last at sequence {sequence})"
        )

    def _copy(self, sequence: int, buffer: bytes) -> Record | None:
        found, checksum, published_ns, size = _RECORD_HEAD.unpack_from(buffer)
        if found != sequence or size > len(buffer) - _RECORD_HEAD.size:
            return None
        body = buffer[_RECORD_HEAD.size : _RECORD_HEAD.size + size]
        if _checksum(sequence, published_ns, body) != checksum:
            return None
        return Record(sequence, published_ns, body)
