from itertools import product

import pytest

from shm.board import EMPTY_CELL, Cell
from shm.errors import InvalidRecord
from shm.segment import WORD_BYTES
from tests.shm.half_written import (
    COPY_BYTES,
    COPY_WORDS,
    LINE_BYTES,
    NEW,
    NEWER,
    NUM_GROUPS,
    NUM_ROWS,
    OLD,
    Write,
    cell_start,
    fake_board,
)


def test_a_cell_that_was_never_written_is_empty(attach_board):
    """
    Epoch 0 is nobody's, so it counts for nothing.
    """
    assert attach_board().read(1, 2) == EMPTY_CELL


def test_what_one_front_door_writes_the_others_read(attach_board):
    """
    Every cell in its own place, the newest of each.
    """
    writers, reader = [attach_board(writable=True) for _ in range(NUM_ROWS)], attach_board()
    cells = {}
    for turn in range(3):
        for row, dp_rank in product(range(NUM_ROWS), range(NUM_GROUPS)):
            cells[row, dp_rank] = Cell(row, dp_rank, turn, 0, 0, 1 << 63, 7, 1)
            writers[row].write(row, dp_rank, cells[row, dp_rank])

    assert {place: reader.read(*place) for place in cells} == cells


def test_the_board_tells_its_shape(attach_board):
    """
    Whoever attaches need not be told how many front doors and groups there are.
    """
    assert (attach_board().num_rows, attach_board().num_groups) == (NUM_ROWS, NUM_GROUPS)


@pytest.mark.parametrize("place", [(NUM_ROWS, 0), (0, NUM_GROUPS), (-1, 0), (0, -1)])
def test_a_cell_beyond_the_board_is_refused(attach_board, place):
    """
    A wrong number never becomes somebody else's cell.
    """
    with pytest.raises(IndexError, match="the board has 2 rows of 3 groups"):
        attach_board().read(*place)


def test_a_board_larger_than_its_segment_is_refused(board_segment, attach_board):
    """
    Its first words promise more than there is.
    """
    board_segment.payload[0] = NUM_ROWS + 1

    with pytest.raises(InvalidRecord, match="3 rows of 3 groups need"):
        attach_board()


def test_a_board_without_rows_is_refused(board_segment, attach_board):
    """
    Its creator has not written the shape.
    """
    board_segment.payload[:LINE_BYTES] = bytes(LINE_BYTES)

    with pytest.raises(InvalidRecord, match="0 rows of 0 groups"):
        attach_board()


def test_a_write_touches_its_own_cell_and_there_the_older_copy(board_segment, attach_board):
    """
    The copy that counts stands until the new one is whole.
    """
    writer = attach_board(writable=True)
    writer.write(1, 1, OLD)
    before = bytes(board_segment.payload)

    writer.write(1, 1, NEW)

    touched = {at for at, byte in enumerate(board_segment.payload) if byte != before[at]}
    second_copy = cell_start(1, 1) + COPY_BYTES
    row_word = LINE_BYTES + WORD_BYTES
    assert touched & set(range(row_word, row_word + WORD_BYTES))
    touched -= set(range(row_word, row_word + WORD_BYTES))
    assert touched
    assert touched <= set(range(second_copy, second_copy + COPY_BYTES))


def test_changed_gives_all_cells_first_and_then_those_written(attach_board):
    """
    In order of dp_rank, and only of the row that was asked for.
    """
    writer, reader = attach_board(writable=True), attach_board()
    writer.write(0, 1, OLD)
    writer.write(1, 2, OLD)
    reader.changed(0)
    reader.changed(1)

    writer.write(0, 2, NEW)
    writer.write(0, 0, NEW)

    assert reader.changed(0) == [(0, NEW), (2, NEW)]
    assert reader.changed(0) == []
    assert reader.changed(1) == []


def test_rows_that_have_moved_are_told_until_they_were_looked_at(attach_board):
    """
    All at first, none when nothing was written; the own row never.
    """
    writer, reader = attach_board(writable=True), attach_board()
    assert reader.moved(0) == [1]
    reader.changed(1)
    assert reader.moved(0) == []
    writer.write(0, 2, OLD)
    assert reader.moved(0) == []

    writer.write(1, 2, OLD)

    assert reader.moved(0) == reader.moved(0) == [1]
    reader.changed(1)
    assert reader.moved(0) == []


def test_a_new_reader_is_given_every_cell(attach_board):
    """
    A front door that has just started knows nothing of the others.
    """
    attach_board(writable=True).write(0, 1, OLD)

    assert attach_board().changed(0) == [(0, EMPTY_CELL), (1, OLD), (2, EMPTY_CELL)]


def test_two_writes_between_two_looks_give_the_last(attach_board):
    """
    Cells are cumulative, so what lay between is not missed.
    """
    writer, reader = attach_board(writable=True), attach_board()
    reader.changed(0)
    for cell in (OLD, NEW, NEWER):
        writer.write(0, 0, cell)

    assert reader.changed(0) == [(0, NEWER)]


# Half-written cells.  A write stores the words of one copy and its row's.  Whatever
# order a processor lets them be seen in, a reader sees some of them: try every subset.


@pytest.mark.parametrize("cells", [(OLD,), (NEWER, OLD)])
def test_half_a_copy_is_never_read(board_segment, attach_board, cells):
    """
    The old cell or the new one, whichever stores are seen, into a fresh copy or a used one.
    """
    write = Write(board_segment, attach_board, cells)

    outcomes = set()
    for seen in write.subsets():
        payload, reader = fake_board(write.before)
        write.show(payload, seen)
        outcomes.add(reader.read(0, 0))

    assert len(write.stores) == COPY_WORDS + 1
    assert outcomes == {OLD, NEW}


def test_a_copy_found_half_written_is_read_again(board_segment, attach_board):
    """
    Whatever is seen of a write when the row's word and the sequences are compared,
    and whatever more when the cell is copied: once all is seen, the new cell has
    been given, and nothing is told any more.
    """
    write = Write(board_segment, attach_board)
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
            assert reader.changed(0) == []
            assert reader.moved(1) == []


def test_a_copy_that_stays_torn_does_not_hide_the_next_write(board_segment, attach_board):
    """
    Its writer died half way; the older copy counts until the front door's next life writes.
    """
    write = Write(board_segment, attach_board)
    board_segment.payload[:] = write.before
    reader = attach_board()
    reader.changed(0)
    sequence_alone = write.stores[:1]
    write.show(board_segment.payload, sequence_alone)
    assert reader.changed(0) == [], "its row has not moved"

    attach_board(writable=True).write(0, 0, NEWER)

    assert reader.changed(0) == [(0, NEWER)]
    assert reader.read(0, 0) == NEWER
