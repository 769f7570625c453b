"""How a leader comes to publish, with a real segment and lock, in one process."""

import fcntl
import queue
import socket
from dataclasses import replace
from uuid import uuid4

import pytest

from shm import load
from shm.errors import SegmentError
from tests.workers.fakes import make_report
from workers.engine.meter import GroupId
from workers.errors import InvalidConfig
from workers.loading import next_epoch
from workers.ranks.reporting import (
    FIRST_PAUSE_S,
    HEAD_START_S,
    LONGEST_PAUSE_S,
    Place,
    Reporting,
    last_reports,
    other_publisher,
)
from workers.ranks.term import Term, wait_for_lock

LIMIT_S = 60.0
EPOCH = 5
NO_SPACE = OSError(28, "No space left on device")
TERM = Term(1, dp_rank=0, epoch=70, host="127.0.0.1", port=1, seal="0f" * 16)


@pytest.fixture(name="instance")
def _instance():
    name = f"test_{uuid4().hex[:12]}"
    segment = load.create(name, 2, 1, EPOCH)
    yield name
    segment.close()
    segment.unlink()


def place(instance, run_dir, dp_rank=0):
    return Place(GroupId(dp_rank, 70), 2, 1, instance, EPOCH, run_dir)


def listener():
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


class Pauses:
    """Takes no time; notes the pauses, and whether somebody else could have the lock then."""

    def __init__(self, run_dir):
        self.taken = []
        self.was_free = []
        self._run_dir = run_dir

    def __call__(self, pause_s):
        self.taken.append(pause_s)
        with (self._run_dir / "publisher.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.was_free.append(True)
            except BlockingIOError:
                self.was_free.append(False)


class FailsFirst:
    """Makes listeners, once it has failed with each of these."""

    def __init__(self, *errors):
        self._errors = list(errors)

    def __call__(self):
        if self._errors:
            raise self._errors.pop(0)
        return listener()


def start(instance, run_dir, bind, **options):
    fatal, pauses = queue.SimpleQueue(), Pauses(run_dir)
    reporting = Reporting(place(instance, run_dir, **options), bind, fatal.put, pauses)
    reporting.start()
    return reporting, fatal, pauses


@pytest.mark.slow
def test_a_leader_that_cannot_take_over_lets_others_try_and_tries_again(instance, tmp_path, caplog):
    """
    It says so once, pauses ever longer without the lock, and goes on as if nothing
    had been when there is space again.
    """
    errors = [NO_SPACE, RuntimeError("the store has no port"), *[NO_SPACE] * 5]
    reporting, fatal, pauses = start(instance, tmp_path, FailsFirst(*errors))

    assert reporting.won.wait(LIMIT_S)
    assert fatal.empty()
    assert pauses.taken == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert (pauses.taken[0], pauses.taken[-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S)
    assert all(pauses.was_free)
    with (tmp_path / "publisher.lock").open("ab") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "group 0 cannot publish" in warnings[0]
    assert "No space left" in warnings[0]
    assert Term.read(tmp_path).group == (0, 70)


@pytest.mark.slow
def test_a_term_that_cannot_be_written_leaves_no_door_open(instance, tmp_path):
    """
    What was made for it is undone, and the next attempt has a door of its own.
    """
    (tmp_path / "publisher.partial").mkdir()
    ports = []

    def bind():
        if len(ports) == 2:
            (tmp_path / "publisher.partial").rmdir()
        bound = listener()
        ports.append(bound.getsockname()[1])
        return bound

    reporting, fatal, pauses = start(instance, tmp_path, bind)

    assert reporting.won.wait(LIMIT_S)
    assert fatal.empty()
    assert len(pauses.taken) == 2
    assert Term.read(tmp_path).port == ports[2]
    for port in ports[:2]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.slow
def test_what_is_wrong_with_the_segment_is_fatal(instance, tmp_path):
    """
    No pause mends that.
    """
    wrong = place(instance, tmp_path)._replace(instance="no_such_instance")
    fatal = queue.SimpleQueue()

    Reporting(wrong, listener, fatal.put, Pauses(tmp_path)).start()

    assert isinstance(fatal.get(timeout=LIMIT_S), SegmentError)


@pytest.mark.slow
def test_others_than_rank_0_wait_a_moment_before_they_contend(instance, tmp_path):
    """
    Rank 0 publishes, if it is ready about as soon.
    """
    reporting, _, pauses = start(instance, tmp_path, listener, dp_rank=1)

    assert reporting.won.wait(LIMIT_S)
    assert pauses.taken == [HEAD_START_S]


def test_a_leader_waits_for_the_lock_only_when_it_is_told_to_start(instance, tmp_path):
    """
    While it loads it may hang, and nobody would know; until then the lock is free.
    """
    Reporting(place(instance, tmp_path), listener, print)

    assert not (tmp_path / "publisher.lock").exists()
    wait_for_lock(tmp_path).close()


def test_a_leader_does_not_join_itself(instance, tmp_path):
    """
    Itself is group and epoch: two groups may have begun in the same nanosecond.
    """
    here = place(instance, tmp_path)
    assert other_publisher(here) is None
    for term, found in [
        (TERM, False),
        (replace(TERM, dp_rank=1), True),
        (replace(TERM, epoch=69), True),
    ]:
        term.write(tmp_path)
        assert other_publisher(here) == (term if found else None)


def test_the_segment_of_another_epoch_is_refused(instance):
    """
    It is another instance's of the same name.
    """
    assert last_reports(instance, EPOCH) == ()
    with pytest.raises(InvalidConfig, match=r"--instance-epoch is 4; the load segment .* has 5"):
        last_reports(instance, EPOCH - 1)


@pytest.mark.parametrize(
    ("now_ns", "card_epoch", "epoch"),
    [(100, 0, 100), (100, 99, 100), (100, 100, 101), (60, 80, 81), (60, 0, 71), (60, 70, 71)],
)
def test_a_new_life_is_later_than_the_last_although_clocks_are_set_back(now_ns, card_epoch, epoch):
    """
    By its card, or, if that was taken away at a clean end, by its last report.
    """
    reports = [make_report(0, group_epoch=70), make_report(1, group_epoch=500)]

    assert next_epoch(now_ns, card_epoch, reports, dp_rank=0) == epoch
