import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from router.child import Child, describe_end
from shm.process import ProcessId, is_alive
from tests.router.fakes import soon, until

ROOT = Path(__file__).parents[2]
HERE = {"PYTHONPATH": str(ROOT), "SLEEPER": "set"}


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


def is_running(pid):
    return is_alive(ProcessId(pid, 0))


async def started(mode, path):
    child = await Child.start("sleeper", ["tests.router.sleeper", mode, str(path)], HERE)
    await until(lambda: path.exists() and path.read_text().endswith("\n"))
    return child


@pytest.mark.anyio
async def test_a_child_runs_until_it_is_stopped(tmp_path):
    """
    In a session of its own, with the environment that it was given.
    """
    child = await started("sleep", tmp_path / "ready")
    assert os.getsid(child.pid) == child.pid
    assert (tmp_path / "ready").read_text().split()[::2] == [str(child.pid), "set"]
    assert child.returncode is None

    await soon(child.stop(10.0))

    assert child.returncode == -signal.SIGTERM
    assert not is_running(child.pid)
    await soon(child.stop(10.0))


@pytest.mark.anyio
async def test_a_child_that_ignores_the_request_to_end_is_ended(tmp_path):
    """
    After its grace.
    """
    child = await started("stubborn", tmp_path / "ready")

    await soon(child.stop(0.05))

    assert child.returncode == -signal.SIGKILL


@pytest.mark.anyio
async def test_a_child_that_has_ended_tells_its_status(tmp_path):
    """
    As often as it is asked.
    """
    child = await started("brief", tmp_path / "ready")

    assert await soon(child.wait()) == await soon(child.wait()) == child.returncode == 3


@pytest.mark.parametrize(
    ("returncode", "words"), [(0, "exited with status 0"), (-9, "was ended by SIGKILL")]
)
def test_an_end_is_described(returncode, words):
    """
    In words for the log.
    """
    assert describe_end(returncode) == words


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
@pytest.mark.anyio
async def test_a_child_does_not_outlive_a_killed_parent(tmp_path):
    """
    SIGKILL gives the root no time to stop anybody, so the kernel does.
    """
    code = (
        "import asyncio, sys; from router.child import Child\n"
        "async def main():\n"
        "    await (await Child.start('x', ['tests.router.sleeper', *sys.argv[1:]], {})).wait()\n"
        "asyncio.run(main())"
    )
    ready = tmp_path / "ready"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "stubborn", str(ready)), env=os.environ | HERE
    )
    await until(lambda: ready.exists() and ready.read_text().endswith("\n"))
    pid = int(ready.read_text().split()[0])
    assert is_running(pid)

    try:
        parent.kill()
        await soon(parent.wait())

        await until(lambda: not is_running(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
