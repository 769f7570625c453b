import os
import subprocess
import sys

from shm.process import ProcessId, is_alive, this_process
from tests.descriptors import no_descriptors


def test_a_process_of_which_nothing_can_be_read_is_alive():
    """
    In doubt: who may open no more files does not take a living owner for dead.
    """
    here = this_process()

    with no_descriptors():
        assert is_alive(here)


def test_who_cannot_read_its_own_start_is_known_by_its_pid_alone():
    """
    It is not kept from starting for that.
    """
    with no_descriptors():
        here = this_process()

    assert here == ProcessId(os.getpid(), 0)
    assert is_alive(here)


def test_a_process_that_is_gone_needs_no_reading():
    """
    Nobody has its pid.
    """
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    with no_descriptors():
        assert not is_alive(ProcessId(child.pid, 1))
