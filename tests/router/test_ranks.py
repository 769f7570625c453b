"""What the root keeps of an instance's ranks, and torchrun as its child."""

import signal

import pytest

from router.errors import ConfigError
from router.instance import Instance
from router.options import parse_serve
from router.ranks import Ranks
from router.torchrun import Torchrun, children_of
from shm.process import ProcessId, is_alive
from tests.router.fakes import soon, until
from tests.router.sleepers import HERE, Clock
from workers.config import parse

TOGETHER = ("--enable-dp-attention", "--tp-size", "4")


@pytest.fixture
def anyio_backend():
    """The loop of the root process."""
    return "asyncio"


def kept(folder, *flags):
    options = parse_serve(["--dp-size", "2", *flags], {})
    instance = Instance("one", 7, str(folder), "127.0.0.1", 1, 2, served_model_name="m")
    return Ranks(instance, options, folder, {}, Clock()).kept()


def test_ranks_are_kept_alone_or_as_a_set_or_by_torchrun(tmp_path):
    """
    By --launcher and --enable-dp-attention; each may take as long to end as its requests may.
    """
    assert [each.name for each in kept(tmp_path)] == ["rank 0", "rank 1"]
    (together,) = kept(tmp_path, *TOGETHER)
    assert [unit.name for unit in together.units] == ["rank 0", "rank 1", "rank 2", "rank 3"]
    for flags in ((), TOGETHER):
        (launcher,) = kept(tmp_path, "--launcher", "torchrun", *flags)
        assert (launcher.name, launcher.grace_s) == ("torchrun", 45.0)


def test_ranks_without_a_server_are_not_asked(tmp_path):
    """
    Of each group the first is, and may then be said to be leaving.
    """
    (together,) = kept(tmp_path, *TOGETHER)
    leaving = [unit.question.patience.max_leaving for unit in together.units]
    assert [most is None for most in leaving] == [False, True, False, True]


@pytest.mark.parametrize("flags", [(), TOGETHER])
def test_torchrun_is_told_how_many_ranks_and_nothing_to_start_again(tmp_path, flags):
    """
    What follows `-m workers` is the same for all, and each adds its number from its environment.
    """
    (launcher,) = kept(tmp_path, "--launcher", "torchrun", *flags)
    name, command, _ = launcher.spawn.args
    size = "4" if flags else "2"
    at = command.index("-m")

    assert (name, launcher.spawn.func) == ("torchrun", Torchrun.start)
    assert command[:at] == [
        "torch.distributed.run", "--standalone", "--max-restarts", "0", "--nproc-per-node", size,
    ]  # fmt: skip
    assert command[at + 1] == "workers"
    environment = {"RANK": "1", "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    config = parse(command[at + 2 :], environment)
    assert config.dp_rank == (0 if flags else 1)


def test_ranks_of_one_torchrun_are_a_set_whether_they_compute_together_or_not():
    """
    It starts none of them alone.
    """

    def is_set(*flags):
        return parse_serve(list(flags), {}).ranks_are_a_set

    assert not is_set()
    assert is_set("--launcher", "torchrun")
    assert is_set("--enable-dp-attention")


def test_torchrun_is_refused_with_backends_and_elsewhere(monkeypatch):
    """
    Where the kernel would leave its ranks behind.
    """
    flags = ["--launcher", "torchrun"]
    with pytest.raises(ConfigError, match="--launcher torchrun: is for workers of ours"):
        parse_serve([*flags, "--backend", "http://127.0.0.1:1"], {})
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ConfigError, match="--launcher torchrun: needs Linux"):
        parse_serve(flags, {})


AGENT = """
import subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-m", "tests.router.sleeper", "drained", path])
         for path in sys.argv[1:]]
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.mark.anyio
async def test_its_ranks_are_asked_to_end_and_it_ends_with_them(tmp_path):
    """
    With status 0: to itself nobody says anything.
    """
    (tmp_path / "agent.py").write_text(AGENT)
    environment = HERE | {"PYTHONPATH": f"{HERE['PYTHONPATH']}:{tmp_path}"}
    paths = [tmp_path / "0", tmp_path / "1"]
    agent = await Torchrun.start("torchrun", ["agent", *map(str, paths)], environment)
    await until(lambda: all(path.exists() and path.read_text() for path in paths))
    ranks = children_of(agent.pid)
    assert len(ranks) == 2

    await soon(agent.stop(10.0))

    assert agent.returncode == 0
    assert not any(is_alive(ProcessId(pid, 0)) for pid in ranks)
    assert children_of(agent.pid) == []
    await soon(agent.stop(10.0))


@pytest.mark.anyio
async def test_one_that_has_no_ranks_yet_is_asked_itself(tmp_path):
    """
    It would else not hear of it.
    """
    path = tmp_path / "ready"
    agent = await Torchrun.start("torchrun", ["tests.router.sleeper", "sleep", str(path)], HERE)
    await until(lambda: path.exists() and path.read_text())

    await soon(agent.stop(10.0))

    assert agent.returncode == -signal.SIGTERM
