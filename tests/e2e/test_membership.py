"""Backends come and go before a real `levelhead serve`, whose control plane is killed meanwhile."""

import os
import signal

import httpx
import pytest

from shm.board import Board
from tests.e2e.instance import RunningInstance, events, eventually
from tests.e2e.stand_in_engine import StandInEngine

pytestmark = pytest.mark.slow
STREAM = {"model": "m", "prompt": "a", "stream": True}


def groups(door):
    """State by slot; nothing while the control plane is down."""
    answer = httpx.get(f"{door.url}/admin/groups", timeout=60)
    if answer.status_code != 200:
        return None
    return {each["dp_rank"]: (each["state"], each["epoch"]) for each in answer.json()}


def states(door):
    told = groups(door)
    return None if told is None else {slot: state for slot, (state, _) in told.items()}


def stream_of(door, dp_rank):
    rank = {"X-Data-Parallel-Rank": str(dp_rank)}
    return httpx.stream("POST", f"{door.url}/v1/completions", json=STREAM, headers=rank, timeout=60)


def text(event):
    return event["choices"][0]["text"]


def books(door):
    """Tokens and requests that any front door has open, on the board itself."""
    board = Board.attach(door.name)
    cells = [board.read(row, slot) for row in range(board.num_rows) for slot in range(64)]
    board.close()
    assert all(cell.dispatched_tokens >= cell.returned_tokens for cell in cells)
    flying = sum(cell.dispatched_tokens - cell.returned_tokens for cell in cells)
    return sum(cell.book_tokens for cell in cells), sum(c.book_requests for c in cells), flying


def test_engines_come_and_go_and_not_one_stream_is_cut():
    """
    One is added and one deleted while both stream, and the control plane is killed in between.
    """
    with (
        StandInEngine() as one,
        StandInEngine() as two,
        RunningInstance("--backend", one.url, "--front-doors", "2") as door,
    ):
        added = httpx.post(f"{door.url}/admin/groups", json={"backend": two.url})
        assert added.status_code == 202
        eventually(lambda: states(door) == {0: "ready", 1: "ready"}, "both are ready")
        with stream_of(door, 0) as first, stream_of(door, 1) as second:
            of_one, of_two = events(first), events(second)
            assert (text(next(of_one)), text(next(of_two))) == ("first", "first")

            assert httpx.delete(f"{door.url}/admin/groups/0").status_code == 202
            assert states(door) == {0: "draining", 1: "ready"}
            old = groups(door)
            os.kill(door.children()["router.control_plane"], signal.SIGKILL)
            for _ in range(8):
                asked = {"model": "m", "prompt": "b"}
                answer = httpx.post(f"{door.url}/v1/completions", json=asked, timeout=60)
                assert (answer.status_code, answer.headers["x-levelhead-dp-rank"]) == (200, "1")
            assert (one.num_answered, two.num_answered) == (0, 8)
            eventually(lambda: groups(door) == old, "the control plane is back, and knows all")

            one.finish.set()
            assert [text(each) for each in of_one] == ["last"]
            eventually(lambda: states(door) == {1: "ready"}, "its slot is free")
            httpx.post(f"{door.url}/admin/groups", json={"backend": one.url})
            eventually(lambda: states(door) == {0: "ready", 1: "ready"}, "it is there anew")
            assert groups(door)[0][1] > old[0][1]
            assert door.metric("levelhead_dispatches_total", group="0") == 0
            assert door.metric("levelhead_in_flight_requests", group="1") == 1

            two.finish.set()
            assert [text(each) for each in of_two] == ["last"]
        eventually(lambda: books(door) == (0, 0, 0), "nothing is on any book")
        assert door.stop() == 0
        assert door.segments() == []
