"""The row of a front door that is dead: emptied by the root, wherever both of them died."""

from itertools import product

import pytest

from shm.board import EMPTY_CELL, Board
from tests.shm.half_written import (
    NEW,
    NEWER,
    NUM_GROUPS,
    NUM_ROWS,
    OLD,
    Write,
    fake_board,
    images,
)

EMPTIED = EMPTY_CELL._replace(front_door_epoch=OLD.front_door_epoch)


def test_a_reclaimed_row_keeps_nothing_but_its_epoch(attach_board):
    """
    The next life's is larger; the other rows are as they were.
    """
    root = attach_board(writable=True)
    for row, dp_rank in product(range(NUM_ROWS), range(NUM_GROUPS)):
        root.write(row, dp_rank, OLD)

    root.reclaim(1)

    reader = attach_board()
    assert reader.changed(0) == [(dp_rank, OLD) for dp_rank in range(NUM_GROUPS)]
    assert reader.changed(1) == [(dp_rank, EMPTIED) for dp_rank in range(NUM_GROUPS)]


def test_reclaiming_tells_what_was_open_and_twice_tells_nothing(attach_board):
    """
    Tokens over all groups, by the books that the dead front door had noted.
    """
    root = attach_board(writable=True)
    root.write(0, 0, OLD)
    root.write(0, 2, NEW)

    assert [root.reclaim(0), root.reclaim(0)] == [OLD.book_tokens + NEW.book_tokens, 0]
    assert root.read(0, 0) == EMPTIED


def test_a_row_that_was_never_written_can_be_reclaimed(attach_board):
    """
    Its front door died before it wrote anything.
    """
    root = attach_board(writable=True)

    assert root.reclaim(0) == 0
    assert root.read(0, 0) == EMPTY_CELL


def test_the_next_life_writes_over_a_reclaimed_cell(attach_board):
    """
    And who has seen the row emptied sees that too.
    """
    root, reader = attach_board(writable=True), attach_board()
    root.write(0, 0, OLD)
    root.reclaim(0)
    reader.changed(0)

    attach_board(writable=True).write(0, 0, NEW)

    assert reader.changed(0) == [(0, NEW)]


@pytest.mark.parametrize("cells", [(OLD,), (NEWER, OLD)], ids=["a fresh copy", "a used one"])
def test_wherever_writer_and_root_die_a_cell_is_the_older_or_the_newer(
    board_segment, attach_board, cells
):
    """
    A front door dies after any word of NEW over OLD, the root after any word of
    reclaiming that: one whole cell is read after each of both, never none.
    """
    write = Write(board_segment, attach_board, cells)

    outcomes = set()
    for torn in images(write.before, lambda b: b.write(0, 0, NEW)):
        left = fake_board(torn)[1].read(0, 0)
        emptied = EMPTY_CELL._replace(front_door_epoch=left.front_door_epoch)
        found = [fake_board(i)[1].read(0, 0) for i in images(torn, lambda b: b.reclaim(0))]
        assert set(found) == {left, emptied}
        outcomes.add(left)

    assert outcomes == {OLD, NEW}


@pytest.mark.parametrize("looks", [False, True], ids=["", "looked at in between"])
@pytest.mark.parametrize("is_reclaimed", [False, True], ids=["", "reclaimed"])
def test_what_follows_a_writers_death_is_seen_by_who_had_looked_before(
    board_segment, attach_board, looks, is_reclaimed
):
    """
    Also if it died between the cell and its row's word, or a processor showed
    the row's word first: neither emptying nor the next note is missed.
    """
    write = Write(board_segment, attach_board)

    for torn in images(write.before, lambda b: b.write(0, 0, NEW)):
        payload, reader = fake_board(write.before)
        known = dict(reader.changed(0))
        payload[:] = torn
        if looks:
            known |= reader.changed(0)
        payload[:] = follow(payload, Board.reclaim, 0) if is_reclaimed else payload
        known |= reader.changed(0)
        if is_reclaimed:
            assert known[0]._replace(front_door_epoch=0) == EMPTY_CELL
            assert reader.moved(1) == [], "and there is nothing more to look at"
        payload[:] = follow(payload, Board.write, 0, 0, NEWER)
        assert reader.moved(1) == [0]
        assert reader.changed(0) == [(0, NEWER)]


def follow(image, act, *arguments):
    """The board after somebody else has acted on it."""
    payload, board_there = fake_board(image)
    act(board_there, *arguments)
    return bytes(payload)


def test_a_row_left_half_written_and_half_reclaimed_is_reclaimed_the_next_time(
    board_segment, attach_board
):
    """
    And then written: whatever two dead writers left, what comes next is read.
    """
    write = Write(board_segment, attach_board)

    for torn in images(write.before, lambda b: b.write(0, 0, NEW)):
        for image in images(torn, lambda b: b.reclaim(0)):
            again = fake_board(image)[1]
            again.reclaim(0)
            assert again.read(0, 0)._replace(front_door_epoch=0) == EMPTY_CELL
            again.write(0, 0, NEWER)
            assert again.read(0, 0) == NEWER
