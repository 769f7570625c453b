"""Who owns a segment, when it is taken over, and what a sweep removes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shm import errors, segment
from shm.names import Kind, segment_name
from shm.process import ProcessId, is_alive, this_process
from shm.segment import Header
from shm.sweep import sweep

CREATE_AND_DIE = """
import os, sys
from shm import segment
from shm.names import Kind
segment.create(sys.argv[1], Kind.LOAD, 64, epoch=1)
os.kill(os.getpid(), 9)
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(name="name")
def _name(instance):
    return segment_name(instance, Kind.LOAD)


def leave_behind(name):
    """A segment whose creator was killed."""
    command = [sys.executable, "-c", CREATE_AND_DIE, name]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9


def give_to(name, owner):
    """Write another owner into the segment."""
    held = segment.attach(name, Kind.LOAD, writable=True)
    held.words[Header.OWNER_PID], held.words[Header.OWNER_START] = owner
    held.close()


def exists(name):
    return Path("/dev/shm" + name).exists()


def test_this_process_is_alive():
    """
    Its pid and start time both fit.
    """
    assert is_alive(this_process())


def test_a_process_that_was_waited_for_is_dead():
    """
    Its pid is nobody's.
    """
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert not is_alive(ProcessId(child.pid, 0))


def test_a_zombie_is_dead():
    """
    A killed process that its parent has not waited for holds a pid and nothing else.
    """
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # ends when the child has closed everything
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(ProcessId(child.pid, 0))
    child.wait()
    child.stdout.close()


def test_a_reused_pid_is_told_apart_by_its_start():
    """
    Somebody else runs under the owner's number: the owner itself is dead.
    """
    pid, start_ticks = this_process()

    assert not is_alive(ProcessId(pid, start_ticks + 1))


def test_a_dead_owners_segment_is_taken_over(name):
    """
    After a kill the next start under the same name needs no help.
    """
    leave_behind(name)

    made = segment.create(name, Kind.LOAD, 128, epoch=2)

    assert (len(made.payload), made.epoch) == (128, 2)
    made.close()


def test_a_live_owners_segment_is_kept(name):
    """
    A second instance of the name is refused, and told which process has it.
    """
    segment.create(name, Kind.LOAD, 64, epoch=1).close()

    with pytest.raises(errors.SegmentExists, match=f"belongs to process {os.getpid()}, which is"):
        segment.create(name, Kind.LOAD, 64, epoch=2)
    assert exists(name)


def test_a_segment_whose_owners_pid_was_reused_is_taken_over(name):
    """
    The pid alone would keep it for ever.
    """
    segment.create(name, Kind.LOAD, 64, epoch=1).close()
    pid, start_ticks = this_process()
    give_to(name, ProcessId(pid, start_ticks + 1))

    assert segment.reclaim(name)
    assert not exists(name)


def test_a_segment_that_is_being_made_is_kept(name):
    """
    Between opening it and writing the owner its creator must not lose it.
    """
    segment.create(name, Kind.LOAD, 64, epoch=1).close()
    give_to(name, ProcessId(0, 0))

    with pytest.raises(errors.SegmentExists, match="is being created by somebody else"):
        segment.reclaim(name)


def test_a_segment_without_an_owner_for_long_is_taken_over(name):
    """
    Its creator died before it could say who it was.
    """
    segment.create(name, Kind.LOAD, 64, epoch=1).close()
    give_to(name, ProcessId(0, 0))
    os.utime("/dev/shm" + name, (0, 0))

    assert segment.reclaim(name)


def test_reclaiming_nothing_is_no_error(name):
    """
    The usual case at a first start.
    """
    assert not segment.reclaim(name)


def test_a_sweep_removes_only_what_the_dead_left(instance):
    """
    Of a killed instance and a running one, the running one's segment stays.
    """
    dead, live = segment_name(instance, Kind.LOAD), segment_name(instance, Kind.BOARD)
    leave_behind(dead)
    segment.create(live, Kind.BOARD, 64, epoch=1).close()

    removed = sweep()

    assert dead in removed
    assert live not in removed
    assert (exists(dead), exists(live)) == (False, True)


def test_a_sweep_leaves_other_programs_segments_alone(tmp_path, name):
    """
    Only names of ours are looked at, even if the system lists others.
    """
    for file in ("psm_1234", "levelheadless", name.lstrip("/")):
        (tmp_path / file).touch()

    assert sweep(tmp_path) == []  # the one with our prefix is no segment


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")
def test_a_sweep_leaves_other_users_segments_alone(name):
    """
    Dead or not, it is for its user to remove.
    """
    leave_behind(name)
    os.chown("/dev/shm" + name, 65534, -1)

    assert name not in sweep()
    assert exists(name)
