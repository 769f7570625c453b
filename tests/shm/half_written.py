"""
Boards in which a write is seen in part: every subset of its words, or all up to a death.

A write stores the words of one copy, and then the row's word.  Whatever order a
processor lets them be seen in, a reader sees some of them.
"""

from itertools import product

from shm.board import Board, Cell
from shm.segment import LINE_WORDS, WORD_BYTES
from tests.shm.racing import FakeSegment

NUM_ROWS, NUM_GROUPS = 2, 3
LINE_BYTES = LINE_WORDS * WORD_BYTES
COPY_WORDS = 1 + len(Cell._fields) + 1  # sequence, fields, checksum
COPY_BYTES = COPY_WORDS * WORD_BYTES
ROW_BYTES = -(-NUM_GROUPS * 2 * COPY_BYTES // LINE_BYTES) * LINE_BYTES
OLD, NEW, NEWER = (Cell(*range(value, value + len(Cell._fields))) for value in (10, 20, 30))


def cell_start(row, dp_rank):
    """First byte of a cell: after a line of shape and one of row words; rows of whole lines."""
    return 2 * LINE_BYTES + row * ROW_BYTES + dp_rank * 2 * COPY_BYTES


class HalfWritten(bytearray):
    """A payload in which more stores are seen by the time the cell itself is copied."""

    def meanwhile(self):
        pass

    def __getitem__(self, key):
        self.meanwhile()
        return super().__getitem__(key)

    def cast(self, word_format):
        return memoryview(self).cast(word_format)


class Write:
    """A board with OLD in its cell, and the word stores of writing NEW over it."""

    def __init__(self, board_segment, attach_board, cells=(OLD,)):
        writer = attach_board(writable=True)
        for cell in cells:
            writer.write(0, 0, cell)
        self.before = bytes(board_segment.payload)
        writer.write(0, 0, NEW)
        self._after = bytes(board_segment.payload)
        first = cell_start(0, 0)
        starts = [*range(first, first + 2 * COPY_BYTES, WORD_BYTES), LINE_BYTES]  # row 0's word
        self.stores = [
            at for at in starts if self._at(self._after, at) != self._at(self.before, at)
        ]

    def show(self, payload, stores):
        for at in stores:
            payload[at : at + WORD_BYTES] = self._at(self._after, at)

    @staticmethod
    def _at(image, at):
        return image[at : at + WORD_BYTES]

    def subsets(self):
        for chosen in product((False, True), repeat=len(self.stores)):
            yield [at for at, seen in zip(self.stores, chosen, strict=True) if seen]


def fake_board(image):
    payload = HalfWritten(image)
    return payload, Board(FakeSegment(None, payload))


def deaths(before, after):
    """What there is if a writer stores the words that differ one by one, and dies at any time."""
    starts = range(0, len(before), WORD_BYTES)
    differing = [at for at in starts if before[at : at + WORD_BYTES] != after[at : at + WORD_BYTES]]
    for stores in (differing, differing[::-1]):
        for num_stores in range(len(stores) + 1):
            image = bytearray(before)
            for at in stores[:num_stores]:
                image[at : at + WORD_BYTES] = after[at : at + WORD_BYTES]
            yield bytes(image)


def images(before, act):
    """The board after each word that acting on it stores, first word first or last word first."""
    payload, board_there = fake_board(before)
    act(board_there)
    return deaths(before, bytes(payload))
