from itertools import product

import pytest

from shm import board
from shm.board import EMPTY_CELL, Board, Cell
from shm.errors import InvalidRecord
from shm.segment import LINE_WORDS, WORD_BYTES
from tests.shm.racing import FakeSegment

NUM_ROWS, NUM_GROUPS = 2, 3
LINE_BYTES = LINE_WORDS * WORD_BYTES
OLD, NEW, NEWER = (Cell(*range(value, value + len(Cell._fields))) for value in (10, 20, 30))


@pytest.fixture(name="created")
def _created(instance):
    created = board.create(instance, NUM_ROWS, NUM_GROUPS, epoch=1)
    yield created
    created.close()


@pytest.fixture(name="attached")
def _attached(created, instance):
    """Attaches as many boards as a test wants."""
    boards = []

    def attach(**options):
        boards.append(Board.attach(instance, **options))
        return boards[-1]

    yield attach
    for one in boards:
        one.close()


def cell_start(row, dp_rank):
    """First byte of a cell in the payload: a line of shape, then two lines a cell."""
    return LINE_BYTES + (row * NUM_GROUPS + dp_rank) * 2 * LINE_BYTES


def test_a_cell_that_was_never_written_is_empty(attached):
    """
    Epoch 0 is nobody's, so it counts for nothing.
    """
    assert attached().read(1, 2) == EMPTY_CELL


def test_what_one_front_door_writes_the_others_read(attached):
    """
    Every cell in its own place, the newest of each.
    """
    writers, reader = [attached(writable=True) for _ in range(NUM_ROWS)], attached()
    cells = {}
    for turn in range(3):
        for row, dp_rank in product(range(NUM_ROWS), range(NUM_GROUPS)):
            cells[row, dp_rank] = Cell(row, dp_rank, turn, 0, 0, 1 << 63)
            writers[row].write(row, dp_rank, cells[row, dp_rank])

    assert {place: reader.read(*place) for place in cells} == cells


def test_the_board_tells_its_shape(attached):
    """
    Whoever attaches need not be told how many front doors and groups there are.
    """
    assert (attached().num_rows, attached().num_groups) == (NUM_ROWS, NUM_GROUPS)


@pytest.mark.parametrize("place", [(NUM_ROWS, 0), (0, NUM_GROUPS), (-1, 0), (0, -1)])
def test_a_cell_beyond_the_board_is_refused(attached, place):
    """
    A wrong number never becomes somebody else's cell.
    """
    with pytest.raises(IndexError, match="the board has 2 rows of 3 groups"):
        attached().read(*place)


def test_a_board_larger_than_its_segment_is_refused(created, attached):
    """
    Its first words promise more than there is.
    """
    created.payload[0] = NUM_ROWS + 1

    with pytest.raises(InvalidRecord, match="3 rows of 3 groups need"):
        attached()


def test_a_board_without_rows_is_refused(created, attached):
    """
    Its creator has not written the shape.
    """
    created.payload[:LINE_BYTES] = bytes(LINE_BYTES)

    with pytest.raises(InvalidRecord, match="0 rows of 0 groups"):
        attached()


def test_a_write_touches_its_own_cell_and_there_the_older_copy(created, attached):
    """
    The copy that counts stands until the new one is whole.
    """
    writer = attached(writable=True)
    writer.write(1, 1, OLD)
    before = bytes(created.payload)

    writer.write(1, 1, NEW)

    touched = {at for at, byte in enumerate(created.payload) if byte != before[at]}
    second_copy = cell_start(1, 1) + LINE_BYTES
    assert touched
    assert touched <= set(range(second_copy, second_copy + LINE_BYTES))


def test_changed_gives_all_cells_first_and_then_those_written(attached):
    """
    In order of dp_rank, and only of the row that was asked for.
    """
    writer, reader = attached(writable=True), attached()
    writer.write(0, 1, OLD)
    writer.write(1, 2, OLD)
    reader.changed(0)
    reader.changed(1)

    writer.write(0, 2, NEW)
    writer.write(0, 0, NEW)

    assert reader.changed(0) == [(0, NEW), (2, NEW)]
    assert reader.changed(0) == []
    assert reader.changed(1) == []


def test_a_new_reader_is_given_every_cell(attached):
    """
    A front door that has just started knows nothing of the others.
    """
    attached(writable=True).write(0, 1, OLD)

    assert attached().changed(0) == [(0, EMPTY_CELL), (1, OLD), (2, EMPTY_CELL)]


def test_two_writes_between_two_looks_give_the_last(attached):
    """
    Cells are cumulative, so what lay between is not missed.
    """
    writer, reader = attached(writable=True), attached()
    reader.changed(0)
    for cell in (OLD, NEW, NEWER):
        writer.write(0, 0, cell)

    assert reader.changed(0) == [(0, NEWER)]


# Half-written cells.  A write stores the words of one copy.  Whatever order a
# processor lets them be seen in, a reader sees some of them: try every subset.


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

    def __init__(self, created, attached, cells=(OLD,)):
        writer = attached(writable=True)
        for cell in cells:
            writer.write(0, 0, cell)
        self.before = bytes(created.payload)
        writer.write(0, 0, NEW)
        self._after = bytes(created.payload)
        first = cell_start(0, 0)
        starts = range(first, first + 2 * LINE_BYTES, WORD_BYTES)
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


@pytest.mark.parametrize("cells", [(OLD,), (NEWER, OLD)])
def test_half_a_copy_is_never_read(created, attached, cells):
    """
    The old cell or the new one, whichever stores are seen, into a fresh copy or a used one.
    """
    write = Write(created, attached, cells)

    outcomes = set()
    for seen in write.subsets():
        payload, reader = fake_board(write.before)
        write.show(payload, seen)
        outcomes.add(reader.read(0, 0))

    assert len(write.stores) == LINE_WORDS
    assert outcomes == {OLD, NEW}


def test_a_copy_found_half_written_is_read_again(created, attached):
    """
    Whatever is seen of a write when the sequences are compared, and whatever
    more when the cell is copied: once all is seen, the new cell has been given.
    """
    write = Write(created, attached)
    early = write.stores[0]  # the sequence: what the comparison looks at

    for first in write.subsets():
        for second in (first, [*first, early], [at for at in write.stores if at != early]):
            payload, reader = fake_board(write.before)
            known = dict(reader.changed(0))
            write.show(payload, first)
            payload.meanwhile = lambda p=payload, seen=second: write.show(p, seen)
            known |= reader.changed(0)
            assert known[0] in (OLD, NEW)
            write.show(payload, write.stores)
            known |= reader.changed(0)
            assert known[0] == NEW


def test_a_copy_that_stays_torn_does_not_hide_the_next_write(created, attached):
    """
    Its writer died half way; the older copy counts until the front door's next life writes.
    """
    write = Write(created, attached)
    created.payload[:] = write.before
    reader = attached()
    reader.changed(0)
    sequence_alone = write.stores[:1]
    write.show(created.payload, sequence_alone)
    assert reader.changed(0) == [(0, OLD)]

    attached(writable=True).write(0, 0, NEWER)

    assert reader.changed(0) == [(0, NEWER)]
    assert reader.read(0, 0) == NEWER
