"""The processes of an instance, as the kernel knows them: the root's children, by what they run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

from tests.faults.chaos.plan import Target

_LISTEN = "0A"
_STOPPED_STATE = "T"
_ENDED_STATES = "ZX"


class Process(NamedTuple):
    """A child of the root.  number: slot of a front door, dp_rank of a leader."""

    target: Target
    number: int
    pid: int
    start_ticks: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.target} {self.number} (pid {self.pid})"

    def signal(self, number: signal.Signals) -> bool:
        """Send it; False if the process is gone."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def children_of(root_pid: int) -> list[Process]:
    """Children of the root that run, zombies not among them."""
    found = []
    for task in Path(f"/proc/{root_pid}/task").glob("*/children"):
        try:
            pids = [int(pid) for pid in task.read_text().split()]
        except OSError:
            continue
        found += [child for child in map(_process, pids) if child is not None]
    return sorted(found)


def _process(pid: int) -> Process | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return None
    fields = stat_of(pid)
    if fields is None or "-m" not in words:
        return None
    module = words[words.index("-m") + 1]
    start_ticks = int(fields[19])
    if module == "router.front_door":
        return Process(Target.FRONT_DOOR, _value(words, "--slot"), pid, start_ticks)
    if module == "workers":
        return Process(Target.LEADER, _value(words, "--dp-rank"), pid, start_ticks)
    if module == "router.control_plane":
        return Process(Target.CONTROL_PLANE, 0, pid, start_ticks)
    return None


def stat_of(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None if the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if not fields or fields[0] in _ENDED_STATES else fields


def is_running(process: Process) -> bool:
    """Whether that very process has not ended."""
    fields = stat_of(process.pid)
    return fields is not None and int(fields[19]) == process.start_ticks


def is_stopped(process: Process) -> bool:
    """Whether it was stopped by a signal."""
    fields = stat_of(process.pid)
    return fields is not None and fields[0] == _STOPPED_STATE


def run_folder_of(root_pid: int) -> Path:
    """The instance's folder, from a child's command line."""
    for child in children_of(root_pid):
        words = Path(f"/proc/{child.pid}/cmdline").read_bytes().decode().split("\0")
        return Path(words[words.index("--run-dir") + 1])
    raise AssertionError(f"the root {root_pid} has no children")


def mentioning(text: str) -> list[int]:
    """Pids of running processes other than this one with that text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        try:
            is_one = text in path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if is_one and pid != os.getpid() and stat_of(pid) is not None:
            found.append(pid)
    return found


def num_listening(port: int) -> int:
    """Sockets that listen on that port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(
        fields[3] == _LISTEN and _port(fields[1]) == port for fields in map(str.split, lines)
    )


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _value(words: list[str], flag: str) -> int:
    return int(words[words.index(flag) + 1])
