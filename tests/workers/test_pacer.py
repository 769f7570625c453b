"""The pacer, its clients and their socket; time is the test's."""

import errno
import json
import socket
import threading
from contextlib import ExitStack, closing

import pytest

from workers.emulation.barrier import Barrier
from workers.emulation.message import RELEASE, Message
from workers.emulation.pace import OwnPace
from workers.emulation.pacer import Pacer, listen, pacer_path
from workers.emulation.pacer_client import PacerClient
from workers.emulation.step_cost import StepCost, StepShare
from workers.emulation.step_log import StepLog
from workers.errors import InvalidConfig

COST = StepCost(10.0, 0.0, 1.0, 0.0)
SHARE = StepShare(100, 1, 0)
LIMIT_S = 20.0


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Bench:
    """A pacer whose turns the test makes, and ranks that speak to it over bare sockets."""

    def __init__(self, folder, undo):
        self.clock, self.undo = Clock(), undo
        self.path, self.log = pacer_path(folder), folder / "steps.jsonl"
        log = StepLog(self.log, COST)
        self.pacer = Pacer(listen(self.path), Barrier(COST), log, self.clock)
        undo.callback(log.close)
        undo.callback(self.pacer.close)

    def rank(self):
        link = self.undo.enter_context(socket.socket(socket.AF_UNIX))
        link.connect(str(self.path))
        self.turns()
        return link

    def client(self, dp_rank, path=None, retry_s=0.001):
        client = PacerClient(path or self.path, dp_rank, retry_s)
        self.undo.callback(client.close)
        return client

    def turns(self, after_ms=0.0):
        """All that has come is heard, and a round that is over by then is closed."""
        self.clock.now_s += after_ms / 1e3
        for _ in range(4):
            self.pacer.turn(0.0)

    def say(self, link, dp_rank, share):
        link.sendall(Message(dp_rank, share).pack())
        self.turns()

    def rounds(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(name="bench")
def _bench(tmp_path):
    with ExitStack() as undo:
        yield Bench(tmp_path, undo)


def is_released(link):
    """Takes the release, if there is one."""
    link.setblocking(False)
    try:
        return link.recv(1) == RELEASE
    except BlockingIOError:
        return False


def test_ranks_are_released_together_when_the_round_is_over(bench):
    """
    The second came while the first was alone in a round, and is in the next one.
    """
    first, second = bench.rank(), bench.rank()
    bench.say(first, 0, SHARE)
    bench.say(second, 1, StepShare(200, 5, 7))
    bench.turns(after_ms=11)
    assert (is_released(first), is_released(second)) == (True, False)

    bench.say(first, 0, SHARE)
    bench.turns(after_ms=14)
    assert (is_released(first), is_released(second)) == (False, False)
    bench.turns(after_ms=2)
    assert (is_released(first), is_released(second)) == (True, True)

    assert bench.rounds()[1] == {
        "round": 2,
        "start_s": pytest.approx(100.011),
        "duration_ms": 15.0,
        "late_ms": 0.0,
        "gap_ms": 0.0,
        "ranks": [
            {"dp_rank": 0, "kv_tokens": 100, "requests": 1, "prefill_tokens": 0, "cost_ms": 1.0},
            {"dp_rank": 1, "kv_tokens": 200, "requests": 5, "prefill_tokens": 7, "cost_ms": 5.0},
        ],
    }


def in_one_round(bench):
    """Two ranks that were released together, and what they are reached by."""
    links = bench.rank(), bench.rank()
    bench.say(links[0], 0, SHARE)
    bench.say(links[1], 1, SHARE)
    bench.turns(after_ms=11)
    assert is_released(links[0])
    bench.say(links[0], 0, SHARE)
    bench.turns(after_ms=11)
    assert is_released(links[0])
    assert is_released(links[1])
    return links


@pytest.mark.parametrize("end", ["rests", "dies", "is followed by its next life"])
def test_nobody_waits_for_a_rank_that(bench, end):
    """
    Whatever its reason for not coming.
    """
    first, second = in_one_round(bench)
    bench.say(first, 0, SHARE)
    bench.turns(after_ms=100)
    assert not is_released(first)

    if end == "rests":
        bench.say(second, 1, None)
    elif end == "dies":
        second.close()
        bench.turns()
    else:
        bench.say(bench.rank(), 1, None)
        assert second.recv(1) == b"", "the old life's connection is closed"
    bench.turns(after_ms=11)

    assert is_released(first)


class FullListener(socket.socket):
    """Takes nobody, as if there were no descriptor left."""

    num_asked, is_full = 0, True

    def accept(self):
        self.num_asked += 1
        if self.is_full:
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


def test_a_pacer_without_a_descriptor_asks_for_one_now_and_then(tmp_path):
    """
    And sleeps in between, though somebody is at the door.
    """
    with ExitStack() as undo:
        bench = Bench(tmp_path, undo)
        bench.pacer.close()
        listener = FullListener(fileno=listen(bench.path).detach())
        bench.pacer = Pacer(listener, Barrier(COST), StepLog(None, COST), bench.clock)
        undo.callback(lambda: bench.pacer.close())
        link = bench.rank()
        bench.turns(after_ms=90)
        assert listener.num_asked == 1
        bench.turns(after_ms=20)
        assert listener.num_asked == 2

        listener.is_full = False
        bench.turns(after_ms=110)
        bench.say(link, 0, SHARE)
        bench.turns(after_ms=11)

        assert is_released(link)


def test_half_a_message_is_no_message(bench):
    """
    The rest may come later.
    """
    link, data = bench.rank(), Message(0, SHARE).pack()
    link.sendall(data[:7])
    bench.turns(after_ms=11)
    assert not is_released(link)

    link.sendall(data[7:])
    bench.turns()
    bench.turns(after_ms=11)

    assert is_released(link)


def test_a_pacer_takes_the_place_of_one_that_died(bench):
    """
    Its socket is still in the folder.
    """
    listen(bench.path).close()
    listen(bench.path).close()


def test_a_folder_that_is_too_deep_for_a_socket_is_refused(tmp_path):
    """
    The kernel takes 107 bytes.
    """
    folder = tmp_path / ("x" * 120)
    folder.mkdir()

    with pytest.raises(InvalidConfig, match="no socket"):
        listen(pacer_path(folder))


def test_a_place_that_cannot_be_taken_is_refused(tmp_path):
    """
    Something else is there that is not to be removed.
    """
    pacer_path(tmp_path).mkdir()

    with pytest.raises(InvalidConfig, match="no socket"):
        listen(pacer_path(tmp_path))


# The client


class Waiting:
    """A rank that waits in a thread of its own, as the step loop does."""

    def __init__(self, client):
        self.thread = threading.Thread(target=client.wait, args=(SHARE,), daemon=True)
        self.thread.start()

    def is_over(self):
        self.thread.join(LIMIT_S)
        return not self.thread.is_alive()


def serve_until(bench, waiting):
    """Turn, with the clock at work, until the rank has been released."""
    for _ in range(10_000):
        waiting.thread.join(0.001)
        if not waiting.thread.is_alive():
            return
        bench.turns(after_ms=1)
    raise AssertionError("the rank was not released")


def test_a_rank_waits_until_its_round_is_over(bench):
    """
    Again and again over one connection.
    """
    client = bench.client(0)
    for number in (1, 2):
        serve_until(bench, Waiting(client))
        assert len(bench.rounds()) == number


def test_a_rank_that_lost_its_pacer_finds_the_next(bench, tmp_path):
    """
    And takes part with the same share.
    """
    client = bench.client(0)
    serve_until(bench, Waiting(client))
    waiting = Waiting(client)
    bench.pacer.close()
    later = Bench(tmp_path, bench.undo)

    serve_until(later, waiting)

    assert later.rounds()[-1]["ranks"][0]["kv_tokens"] == SHARE.kv_tokens


@pytest.mark.parametrize("has_pacer", [True, False])
def test_a_rank_that_is_stopped_waits_no_more(bench, tmp_path, has_pacer):
    """
    Neither for the end of a round nor for a pacer.
    """
    client = bench.client(0, bench.path if has_pacer else tmp_path / "none", retry_s=LIMIT_S)
    waiting = Waiting(client)

    client.stop()

    assert waiting.is_over()


@pytest.mark.parametrize("when", ["in a round", "between two"])
def test_nobody_waits_for_a_rank_that_is_stopped(bench, when):
    """
    Its process may take long to end.
    """
    first, client = bench.rank(), bench.client(1)
    serve_until(bench, Waiting(client))
    if when == "in a round":
        waiting = Waiting(client)
        client.stop()
        assert waiting.is_over()
    else:
        client.stop()
        client.rest()

    bench.say(first, 0, SHARE)
    bench.turns(after_ms=11)  # a round of rank 1, if its share was sent
    bench.turns(after_ms=11)

    assert is_released(first)


def test_a_rank_that_rests_says_so_once(bench, caplog):
    """
    Idle rounds follow each other, one word is enough, and then no pacer is needed.
    """
    first, client = bench.rank(), bench.client(1)
    client.rest()
    waiting = Waiting(client)
    serve_until(bench, waiting)
    bench.say(first, 0, SHARE)
    bench.turns(after_ms=100)
    assert not is_released(first), "rank 1 is awaited"

    client.rest()
    bench.turns()
    bench.turns(after_ms=11)
    assert is_released(first)

    bench.pacer.close()
    client.rest()
    client.rest()
    assert not caplog.records


def test_a_rank_of_its_own_pace_waits_for_nobody_and_logs_its_steps(tmp_path):
    """
    Its clock jumps over the end of the step here, so nothing is slept.
    """
    times = iter([1.0, 1.5, 2.0, 2.5])
    log = tmp_path / "steps.jsonl"
    with closing(StepLog(log, COST)) as steps:
        pace = OwnPace(3, Barrier(COST), steps, lambda: next(times))
        pace.wait(SHARE)
        pace.rest()

    rounds = [json.loads(line) for line in log.read_text().splitlines()]

    assert [(one["duration_ms"], one["ranks"][0]["dp_rank"]) for one in rounds] == [(11.0, 3)]


def test_a_rank_of_its_own_pace_can_be_stopped(tmp_path):
    """
    In the middle of a step that would never end.
    """
    pace = OwnPace(0, Barrier(COST), StepLog(None, COST), lambda: 1.0)
    waiting = Waiting(pace)

    pace.stop()

    assert waiting.is_over()
