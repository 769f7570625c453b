"""Which rank a process is, by what torchrun says; and how it ends with torchrun's agent."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from workers.config import parse
from workers.errors import InvalidConfig

LIMIT_S = 10.0
ENVIRONMENT = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
AGENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
RANK = """
import os, sys, time
from workers.torchrun import end_with_agent
end_with_agent({"TORCHELASTIC_RUN_ID": "one"})
print("here", flush=True)
time.sleep(60)
"""


def parsed(folder, environment, *flags, size=2):
    needed = ["--instance", "i", "--instance-epoch", "1", "--run-dir", str(folder),
              "--dp-size", str(size), "--num-front-doors", "1", "--model", "m",
              "--served-model-name", "m"]  # fmt: skip
    return parse([*needed, *flags], environment)


def test_a_rank_takes_its_number_from_torchrun(tmp_path):
    """
    Where each group is a rank, it is the group's.
    """
    config = parsed(tmp_path, ENVIRONMENT)
    assert (config.dp_rank, config.tp_rank) == (1, None)


@pytest.mark.parametrize(("rank", "dp_rank"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_of_ranks_that_compute_together_it_follows_which_group_they_are(tmp_path, rank, dp_rank):
    """
    T / G in a row.
    """
    environment = {"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    config = parsed(tmp_path, environment, "--enable-dp-attention", "--tp-size", "4")
    assert (config.tp_rank, config.dp_rank) == (rank, dp_rank)


def test_flags_count_more_than_the_environment(tmp_path):
    """
    A RANK may be there for some other program.
    """
    assert parsed(tmp_path, ENVIRONMENT, "--dp-rank", "0").dp_rank == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"RANK": None}, "--dp-rank is missing"),
        ({"RANK": "2"}, r"RANK is 2; with --dp-size 2 it must be in \[0, 1\]"),
        ({"RANK": "x"}, "RANK is 'x'; torchrun sets it to an integer"),
        ({"WORLD_SIZE": "3"}, "WORLD_SIZE is 3; --dp-size is 2, .*--nproc-per-node 2"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is ''"),
        ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_WORLD_SIZE is 1; .*all on this host"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changed, told):
    """
    With what torchrun said, what the flags say, and how to start it.
    """
    environment = {k: v for k, v in (ENVIRONMENT | changed).items() if v is not None}
    with pytest.raises(InvalidConfig, match=told):
        parsed(tmp_path, environment)


def test_one_rank_flag_without_the_other_is_refused(tmp_path):
    """
    Nobody can tell which of them is meant.
    """
    flags = ("--enable-dp-attention", "--tp-size", "2", "--tp-rank", "0")
    with pytest.raises(InvalidConfig, match="--tp-rank is 0, and --dp-rank is left out"):
        parsed(tmp_path, ENVIRONMENT, *flags)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_rank_does_not_outlive_an_agent_that_is_killed():
    """
    The agent cannot tell it.
    """
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    starting = [sys.executable, "-c", AGENT, RANK]
    with subprocess.Popen(starting, stdout=subprocess.PIPE, env=here) as agent:
        rank = os.pidfd_open(int(agent.stdout.readline()))
        agent.kill()
    ended, _, _ = select.select([rank], [], [], LIMIT_S)
    os.close(rank)
    assert ended
