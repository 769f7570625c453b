"""
The in-flight board: what every front door has sent to every group.

    payload (unsigned 64-bit words)
    line 0           num_rows, num_groups, zero ...
    line 1 ...       cells, row by row: row r, group g is cell r * num_groups + g

    cell = two copies of one line; the copy with the larger sequence counts
    word  copy
    0     sequence
    1     front_door_epoch
    2     group_epoch
    3     dispatched_tokens     cumulative since both epochs began
    4     dispatched_requests
    5     returned_tokens       of those, known never to have reached the group
    6     returned_requests
    7     CRC-32 of words 0..6

Who writes: front door r, row r and nothing else.  It writes the copy with the
smaller sequence, so the other one, whole, stands until the new one is.  Who
reads: every front door and the control plane.  A copy counts only if its
checksum holds; a reader that finds a newer one half written takes the other,
and looks again the next time it asks.

A writer that dies half way leaves the older copy valid: the charge it was
about to note was never sent, because noting comes first.  The next life of
that front door writes over the older copy first, so for a moment none is
whole: EMPTY_CELL counts for nothing, and so do the zeros that it writes.

There is no lock and no shared counter: each number has one writer and only
grows, and a sum of numbers that only grow needs no order between them.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from shm import segment
from shm.errors import InvalidRecord
from shm.names import Kind, segment_name
from shm.segment import LINE_WORDS, WORD_BYTES, Segment

_LINE_BYTES = LINE_WORDS * WORD_BYTES
_CELL_LINES = 2
_CELL_BYTES = _CELL_LINES * _LINE_BYTES
_CELL_WORDS = _CELL_LINES * LINE_WORDS
_CHECKED = struct.Struct("<7Q")
_COPY = struct.Struct("<8Q")
_CHECKSUM = struct.Struct("<Q")
_SHAPE = struct.Struct("<QQ")
_UNSEEN = -1  # no sequence: differs from every one


class Cell(NamedTuple):
    """What one front door has sent to one group, since both their epochs began."""

    front_door_epoch: int
    group_epoch: int
    dispatched_tokens: int
    dispatched_requests: int
    returned_tokens: int
    returned_requests: int


EMPTY_CELL = Cell(0, 0, 0, 0, 0, 0)


def create(instance: str, num_rows: int, num_groups: int, epoch: int) -> Segment:
    """Make instance's board; the caller owns it and unlinks it."""
    size = _LINE_BYTES + num_rows * num_groups * _CELL_BYTES
    made = segment.create(segment_name(instance, Kind.BOARD), Kind.BOARD, size, epoch)
    _SHAPE.pack_into(made.payload, 0, num_rows, num_groups)
    return made


class Board:
    """The board as one process sees it: it reads every row, and its writer writes one."""

    def __init__(self, board_segment: Segment) -> None:
        self._segment = board_segment
        num_rows, num_groups = _SHAPE.unpack_from(board_segment.payload)
        self.num_rows, self.num_groups = int(num_rows), int(num_groups)
        needed = _LINE_BYTES + self.num_rows * self.num_groups * _CELL_BYTES
        if not self.num_rows or needed > len(board_segment.payload):
            raise InvalidRecord(
                f"{board_segment.name}: {self.num_rows} rows of {self.num_groups} groups need "
                f"{needed} bytes, it has {len(board_segment.payload)}"
            )
        self._payload = board_segment.payload
        self._words: memoryview[int] = board_segment.payload.cast("Q")
        self._seen: list[list[int]] = [[] for _ in range(self.num_rows)]

    @classmethod
    def attach(cls, instance: str, *, writable: bool = False) -> Board:
        """Open instance's board; raises as shm.segment.attach does."""
        name = segment_name(instance, Kind.BOARD)
        return cls(segment.attach(name, Kind.BOARD, writable=writable))

    def write(self, row: int, dp_rank: int, cell: Cell) -> None:
        """Replace a cell.  Only the front door of that row may call this."""
        start = self._start(row, dp_rank)
        word = start // WORD_BYTES
        first, second = self._words[word], self._words[word + LINE_WORDS]
        if first <= second:
            checked = _CHECKED.pack(second + 1, *cell)
        else:
            checked, start = _CHECKED.pack(first + 1, *cell), start + _LINE_BYTES
        end = start + _LINE_BYTES
        self._payload[start:end] = checked + _CHECKSUM.pack(zlib.crc32(checked))

    def read(self, row: int, dp_rank: int) -> Cell:
        """Newest whole copy of a cell; EMPTY_CELL if there is none."""
        return self._newest(self._start(row, dp_rank))[1]

    def changed(self, row: int) -> list[tuple[int, Cell]]:
        """Cells of a row, with their dp_rank, that were written since this was last asked."""
        start = self._start(row, 0) // WORD_BYTES
        end = start + self.num_groups * _CELL_WORDS
        sequences = self._words[start:end:LINE_WORDS].tolist()
        seen, self._seen[row] = self._seen[row], sequences
        if sequences == seen:
            return []
        pairs = enumerate(zip(sequences, seen or [_UNSEEN] * len(sequences), strict=True))
        changed = {i // _CELL_LINES for i, (now, before) in pairs if now != before}
        return [(rank, self._look(row, rank, sequences)) for rank in sorted(changed)]

    def close(self) -> None:
        """Unmap the board."""
        self._words.release()
        self._segment.close()

    def _look(self, row: int, dp_rank: int, sequences: list[int]) -> Cell:
        """Read a cell, and strike its sequences out if the newer copy was not whole yet."""
        copies = slice(dp_rank * _CELL_LINES, (dp_rank + 1) * _CELL_LINES)
        sequence, cell = self._newest(self._start(row, dp_rank))
        if sequence < max(sequences[copies]):
            sequences[copies] = [_UNSEEN] * _CELL_LINES
        return cell

    def _newest(self, start: int) -> tuple[int, Cell]:
        """Sequence and content of the newest whole copy; 0 and EMPTY_CELL if there is none."""
        copies = bytes(self._payload[start : start + _CELL_BYTES])
        newest, cell = 0, EMPTY_CELL
        for words in _COPY.iter_unpack(copies):
            if words[0] > newest and zlib.crc32(_CHECKED.pack(*words[:-1])) == words[-1]:
                newest, cell = words[0], Cell._make(words[1:-1])
        return newest, cell

    def _start(self, row: int, dp_rank: int) -> int:
        if not (0 <= row < self.num_rows and 0 <= dp_rank < self.num_groups):
            raise IndexError(
                f"row {row}, group {dp_rank}: the board has {self.num_rows} rows of "
                f"{self.num_groups} groups"
            )
        return _LINE_BYTES + (row * self.num_groups + dp_rank) * _CELL_BYTES
