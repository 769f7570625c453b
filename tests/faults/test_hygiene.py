"""What a killed instance leaves, and what two instances see of each other."""

import os
import signal

import httpx
import pytest

from tests.e2e.instance import RunningInstance, eventually
from tests.faults.chaos.processes import children_of, is_running, run_folder_of

pytestmark = pytest.mark.slow


def serve(model):
    return RunningInstance(
        *("--model", str(model), "--served-model-name", "tiny", "--threads-per-rank", "1"),
        *("--dp-size", "1", "--front-doors", "2"),
    )


def kill_everybody(instance):
    """SIGKILL to the root and all its children; return those."""
    children = children_of(instance.process.pid)
    instance.process.kill()
    for child in children:
        child.signal(signal.SIGKILL)
    instance.stop()
    eventually(lambda: not any(map(is_running, children)), "all have ended")
    return children


def test_the_next_start_removes_what_a_wholly_killed_instance_left(tiny_llama):
    """
    Segments and folder are gone once another instance is up.  Modes keep other users out.
    """
    killed = serve(tiny_llama)
    folder = run_folder_of(killed.process.pid)
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {name: os.stat(f"/dev/shm/{name}").st_mode & 0o777 for name in killed.segments()}
    assert len(kill_everybody(killed)) == 4

    with serve(tiny_llama) as following, serve(tiny_llama) as beside:
        assert (killed.segments(), folder.exists()) == ([], False)
        check_that_they_are_strangers(following, beside)

    assert following.segments() == beside.segments() == []
    assert set(modes.values()) == {0o600}


def check_that_they_are_strangers(one, other):
    """Two instances on a host share no name, no folder and no load."""
    assert one.name != other.name
    assert len({*one.segments(), *other.segments()}) == 6
    assert run_folder_of(one.process.pid) != run_folder_of(other.process.pid)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    for _ in range(5):
        httpx.post(f"{one.url}/v1/completions", json=body, timeout=60).raise_for_status()
    eventually(lambda: one.metric("levelhead_dispatches_total") == 5, "counted there")
    assert other.metric("levelhead_dispatches_total") == 0
    assert other.loads()[0]["epoch"] != one.loads()[0]["epoch"]
