import os
from itertools import count

import pytest

from shm import board
from shm.board import Board
from shm.names import Kind, segment_name
from shm.segment import unlink
from tests.shm.half_written import NUM_GROUPS, NUM_ROWS

_numbers = count()


@pytest.fixture
def instance():
    """A name that no other test uses; whatever was made under it is gone afterwards."""
    name = f"test.{os.getpid()}.{next(_numbers)}"
    yield name
    for kind in Kind:
        unlink(segment_name(name, kind))


@pytest.fixture(name="board_segment")
def _board_segment(instance):
    created = board.create(instance, NUM_ROWS, NUM_GROUPS, epoch=1)
    yield created
    created.close()


@pytest.fixture(name="attach_board")
def _attach_board(board_segment, instance):
    """Attaches as many boards as a test wants."""
    boards = []

    def attach(**options):
        boards.append(Board.attach(instance, **options))
        return boards[-1]

    yield attach
    for one in boards:
        one.close()
