"""A short chaos run, as `make chaos` does it."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SECONDS = 25


def test_a_short_chaos_run_loses_nothing_and_leaves_nothing():
    """
    The last line of standard output is the result; the last seven figures are zero.
    """
    command = ["-m", "tests.faults.chaos", "--seed", "7", "--seconds", str(SECONDS)]
    ran = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=170, check=False
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    print(ran.stderr)

    assert told["kills"] >= 5
    assert told["completed"] > 0
    assert set(list(told.values())[-7:]) == {0}, told
    assert ran.returncode == 0
