"""Processes that a benchmark starts; here small programs that ignore SIGTERM."""

import os
import subprocess
import sys

import pytest

from benchmarks.instance import running

LIMIT_S = 20.0
READY = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.alarm(60)  # whatever becomes of the test
print(f"levelhead is ready: http://{os.getpid()}/v1", flush=True)
"""


def program(then):
    return [sys.executable, "-S", "-c", READY + then]


def test_an_instance_may_say_more_than_a_pipe_holds():
    """
    Or it would stand still; this one ends by itself once it has said all.
    """
    with running(program("sys.stdout.write('x' * 1_000_000)"), LIMIT_S) as url:
        assert url.startswith("http://")


def test_an_instance_that_does_not_stop_is_killed():
    """
    And that is an error.
    """
    with (
        pytest.raises(subprocess.TimeoutExpired),
        running(program("signal.pause()"), stop_limit_s=0.01) as url,
    ):
        pid = int(url.rpartition("/")[2])

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_instance_that_ends_before_it_is_ready_is_an_error():
    """
    There is nothing to measure.
    """
    with (
        pytest.raises(RuntimeError, match="did not become ready"),
        running([sys.executable, "-S", "-c", ""]),
    ):
        pass
