"""
The in-flight board: what every front door has sent to every group, and has open there.

    payload (unsigned 64-bit words)
    line 0           num_rows, num_groups, zero ...
    whole lines      row words, one for each row
    then             rows of cells, each row begins a line; row r belongs to front door r

    row word = sum of the sequences of all copies in the row

    cell = two copies, one behind the other; the copy with the larger sequence counts
    word  copy
    0     sequence
    1..8  the fields of Cell, in order
    9     CRC-32 of words 0..8

Who writes: front door r, row r and nothing else.  It writes the copy with the
smaller sequence, so the other one, whole, stands until the new one is.  Who
reads: every front door and the control plane.  A copy counts only if its
checksum holds; a reader that finds a newer one half written takes the other,
and looks again the next time it asks.

A front door that dies half way leaves the older copy valid: the charge it was
about to note was never sent, because noting comes first.  Then its row is
*reclaimed*: once the root has waited for the process, and before it starts
the next, the root empties the row.  So a row has one writer at a time, and
what a dead front door had sent or had open counts until that moment and no
longer.  Reclaiming writes over the copy that does not count, also where that
is the one with the larger sequence because the dead writer left it half
written: a reader sees the old cell or the empty one, never neither.  If the
root dies while it reclaims, so does the whole instance, and its board is
swept; cells are independent, so a row that is reclaimed in part is no
special case.

Readers compare the row words first, all in one copy, and look at the cells of
no row whose word is as it was.  The writer of a row adds to its word after it
has written a cell, by as much as the sequences have grown; so a reader has
missed nothing if the sequences that it read add up to the word, and until they
do it looks at that row again, whether the word moves or not.  That holds in
whatever order stores are seen.  A front door that dies between cell and word
has noted what nobody was told, like one that dies half way through the cell:
reclaiming sets the word to the sum, and the next note of any cell moves it.

There is no lock and no shared counter: each number has one writer, and a sum
of numbers that only grow needs no order between them.  The book is a gauge:
it is right as of its writer's last note, and nothing is subtracted from it.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from typing import NamedTuple

from shm import segment
from shm.errors import InvalidRecord
from shm.names import Kind, segment_name
from shm.segment import LINE_WORDS, WORD_BYTES, Segment

_LINE_BYTES = LINE_WORDS * WORD_BYTES


class Cell(NamedTuple):
    """What one front door has sent to one group since both their epochs began, and its book."""

    front_door_epoch: int
    group_epoch: int
    dispatched_tokens: int
    """Cumulative, like the three below it."""
    dispatched_requests: int
    returned_tokens: int
    """Of those dispatched, known never to have reached the group."""
    returned_requests: int
    book_tokens: int
    """Open now: prompts, and what was streamed up to the last note."""
    book_requests: int


EMPTY_CELL = Cell(0, 0, 0, 0, 0, 0, 0, 0)

_CHECKED = struct.Struct(f"<{1 + len(Cell._fields)}Q")  # sequence and cell
_CHECKSUM = struct.Struct("<Q")
_COPY = struct.Struct(f"<{1 + len(Cell._fields) + 1}Q")
_COPY_BYTES = _COPY.size
_COPY_WORDS = _COPY_BYTES // WORD_BYTES
_CELL_COPIES = 2
_CELL_BYTES = _CELL_COPIES * _COPY_BYTES
_SHAPE = struct.Struct("<QQ")
_UNSEEN = (1 << 64) - 1  # a sequence, or a sum of some, that no writer lives to reach
_FIRST_ROW_WORD = LINE_WORDS


def _whole_lines(num_bytes: int) -> int:
    return -(-num_bytes // _LINE_BYTES) * _LINE_BYTES


def _row_bytes(num_groups: int) -> int:
    """Whole lines: two front doors never write cells in the same one."""
    return _whole_lines(num_groups * _CELL_BYTES)


def _rows_start(num_rows: int) -> int:
    """First byte of the first row: after the shape and the row words."""
    return _LINE_BYTES + _whole_lines(num_rows * WORD_BYTES)


def create(instance: str, num_rows: int, num_groups: int, epoch: int) -> Segment:
    """Make instance's board; the caller owns it and unlinks it."""
    size = _rows_start(num_rows) + num_rows * _row_bytes(num_groups)
    made = segment.create(segment_name(instance, Kind.BOARD), Kind.BOARD, size, epoch)
    _SHAPE.pack_into(made.payload, 0, num_rows, num_groups)
    return made


class Board:
    """The board as one process sees it: it reads every row, and its writer writes one."""

    def __init__(self, board_segment: Segment) -> None:
        self._segment = board_segment
        num_rows, num_groups = _SHAPE.unpack_from(board_segment.payload)
        self.num_rows, self.num_groups = int(num_rows), int(num_groups)
        self._row_bytes = _row_bytes(self.num_groups)
        self._rows_start = _rows_start(self.num_rows)
        needed = self._rows_start + self.num_rows * self._row_bytes
        if not self.num_rows or needed > len(board_segment.payload):
            raise InvalidRecord(
                f"{board_segment.name}: {self.num_rows} rows of {self.num_groups} groups need "
                f"{needed} bytes, it has {len(board_segment.payload)}"
            )
        self._payload = board_segment.payload
        self._words: memoryview[int] = board_segment.payload.cast("Q")
        self._seen = [b""] * self.num_rows
        """Sequences of every row's copies, as changed() saw them last."""
        self._row_words = slice(_FIRST_ROW_WORD, _FIRST_ROW_WORD + self.num_rows)
        self._seen_rows = array("Q", [_UNSEEN] * self.num_rows)
        """Row words up to which changed() has seen everything."""

    @classmethod
    def attach(cls, instance: str, *, writable: bool = False) -> Board:
        """Open instance's board; raises as shm.segment.attach does."""
        name = segment_name(instance, Kind.BOARD)
        return cls(segment.attach(name, Kind.BOARD, writable=writable))

    def write(self, row: int, dp_rank: int, cell: Cell) -> None:
        """Replace a cell.  Only the front door of that row may call this."""
        start = self._start(row, dp_rank)
        word = start // WORD_BYTES
        first, second = self._words[word], self._words[word + _COPY_WORDS]
        if first <= second:
            self._write_copy(start, second + 1, cell)
            growth = second + 1 - first
        else:
            self._write_copy(start + _COPY_BYTES, first + 1, cell)
            growth = first + 1 - second
        self._words[_FIRST_ROW_WORD + row] += growth  # last: who sees it finds the cell

    def reclaim(self, row: int) -> int:
        """
        Empty the row of a front door that is dead; return the tokens it had open.

        Only the root may call this, after it has waited for the process and
        before it starts the next.  Every cell keeps the epoch of the dead
        front door, which its next life exceeds.  Twice does no harm.
        """
        ended = 0
        for dp_rank in range(self.num_groups):
            start = self._start(row, dp_rank)
            sequence, cell = self._newest(start)
            ended += cell.book_tokens
            word = start // WORD_BYTES
            first, second = self._words[word], self._words[word + _COPY_WORDS]
            spare = start + _COPY_BYTES if first == sequence else start
            emptied = EMPTY_CELL._replace(front_door_epoch=cell.front_door_epoch)
            # One more than the next: the dead writer's half copy may lack its sequence alone.
            self._write_copy(spare, max(first, second) + 2, emptied)
        self._words[_FIRST_ROW_WORD + row] = sum(array("Q", self._sequences(row)))
        return ended

    def read(self, row: int, dp_rank: int) -> Cell:
        """Newest whole copy of a cell; EMPTY_CELL if there is none."""
        return self._newest(self._start(row, dp_rank))[1]

    def moved(self, own: int) -> list[int]:
        """
        Rows but the caller's own of which changed() may have something to tell.

        Costs one copy and one comparison when there are none.
        """
        now = array("Q", self._words[self._row_words].tobytes())
        seen = self._seen_rows
        seen[own] = now[own]
        if now == seen:
            return []
        return [row for row, word in enumerate(now) if word != seen[row]]

    def changed(self, row: int) -> list[tuple[int, Cell]]:
        """Cells of a row, with their dp_rank, that were written since this was last asked."""
        word = self._words[_FIRST_ROW_WORD + row]  # before the cells that it is about
        if word == self._seen_rows[row]:
            return []
        stored, seen = self._sequences(row), self._seen[row]
        sequences = array("Q", stored)
        changed = []
        if stored != seen:
            before = array("Q", seen) if seen else [_UNSEEN] * len(sequences)
            pairs = enumerate(zip(sequences, before, strict=True))
            ranks = sorted({i // _CELL_COPIES for i, (now, then) in pairs if now != then})
            changed = [(dp_rank, self._look(row, dp_rank, sequences)) for dp_rank in ranks]
            self._seen[row] = sequences.tobytes()
        self._seen_rows[row] = word if sum(sequences) == word else _UNSEEN
        return changed

    def close(self) -> None:
        """Unmap the board."""
        self._words.release()
        self._segment.close()

    def _sequences(self, row: int) -> bytes:
        """Sequences of a row's copies; bytes, which are compared at the cost of a memcmp."""
        start = self._start(row, 0) // WORD_BYTES
        end = start + self.num_groups * _CELL_COPIES * _COPY_WORDS
        return self._words[start:end:_COPY_WORDS].tobytes()

    def _write_copy(self, start: int, sequence: int, cell: Cell) -> None:
        checked = _CHECKED.pack(sequence, *cell)
        self._payload[start : start + _COPY_BYTES] = checked + _CHECKSUM.pack(zlib.crc32(checked))

    def _look(self, row: int, dp_rank: int, sequences: array[int]) -> Cell:
        """Read a cell, and strike its sequences out if the newer copy was not whole yet."""
        copies = slice(dp_rank * _CELL_COPIES, (dp_rank + 1) * _CELL_COPIES)
        sequence, cell = self._newest(self._start(row, dp_rank))
        if sequence < max(sequences[copies]):
            sequences[copies] = array("Q", [_UNSEEN] * _CELL_COPIES)
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
        return self._rows_start + row * self._row_bytes + dp_rank * _CELL_BYTES
