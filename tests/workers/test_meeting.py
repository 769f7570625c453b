"""Ranks that are to compute together find each other."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from workers.errors import InvalidConfig, RankLost
from workers.lockstep.meeting import Attendance, MeetingPoint, make_group, meet, open_meeting_point

LIMIT_S = 60.0


def bind():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.fixture(name="threads")
def _threads():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def attend(run_dir, rank, size=3, settings="alike"):
    return meet(run_dir, Attendance(rank, size, settings), rank, bind)


def test_all_meet_whoever_comes_first(tmp_path, threads):
    """
    What one writes into the store, the others read; only their owner may read where it is.
    """
    met = [threads.submit(attend, tmp_path, rank) for rank in (2, 1, 0)]
    stores = [each.result(LIMIT_S) for each in met]

    stores[0][0].set("word", "said")
    assert all(own.get("word") == b"said" for _, own in stores)
    assert (tmp_path / "set.json").stat().st_mode & 0o777 == 0o600


def test_who_finds_what_an_earlier_life_has_left_waits_for_the_next(tmp_path, threads):
    """
    Nobody listens there any more, or somebody else does, under another name.
    """
    gone = bind()
    MeetingPoint("127.0.0.1", gone.getsockname()[1], "gone").write(tmp_path)
    gone.close()
    waiting = threads.submit(attend, tmp_path, 1, 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    point, other = open_meeting_point(elsewhere, bind())
    point._replace(name="of an earlier life").write(tmp_path)

    host = threads.submit(attend, tmp_path, 0, 2)

    assert host.result(LIMIT_S)
    assert waiting.result(LIMIT_S)
    del other


def test_ranks_that_were_told_differently_do_not_compute_together(tmp_path, threads):
    """
    Both sides name what each was told, and end.
    """
    host = threads.submit(attend, tmp_path, 0, 2, "--page-size 16")
    other = threads.submit(attend, tmp_path, 1, 2, "--page-size 4")

    with pytest.raises(InvalidConfig, match=r"rank 0 --page-size 16; rank 1 --page-size 4"):
        other.result(LIMIT_S)
    with pytest.raises(InvalidConfig, match=r"rank 1 --page-size 4; rank 0 --page-size 16"):
        host.result(LIMIT_S)


def test_a_place_is_taken_once(tmp_path):
    """
    A rank that was started again alone does not sit down on the place of its last life.
    """
    point, store = open_meeting_point(tmp_path, bind())
    store.set("settings-0", "alike")
    store.add("taken-1", 1)

    with pytest.raises(RankLost, match="has a rank 1 already"):
        Attendance(1, 2, "alike").attend(point.connect(), lambda: False)


def test_a_collective_that_a_rank_does_not_join_ends_with_an_error(tmp_path, threads):
    """
    After the time-out, and for all who wait in it.
    """
    stores = [each.result(LIMIT_S) for each in
              [threads.submit(attend, tmp_path, rank, 2) for rank in (0, 1)]]  # fmt: skip
    groups = [
        threads.submit(make_group, store, rank, 2, 0.5) for rank, (store, _) in enumerate(stores)
    ]
    first, silent = (each.result(LIMIT_S) for each in groups)

    with pytest.raises(RankLost):
        first.all_reduce(torch.zeros(1))
    assert silent.rank == 1
