"""
Who owns a segment: a process, named so that a reused pid is not mistaken for it.

A pid alone comes back after a while; a pid with its start time does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_STAT_START_TIME = 19  # index of field 22 (starttime), counted after the ")" of field 2
_STAT_STATE = 0
_DEAD_STATES = ("Z", "X")


class ProcessId(NamedTuple):
    """A process for as long as the machine is up."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to the process's start; 0 where /proc did not tell."""


def this_process() -> ProcessId:
    """Identity of the calling process."""
    pid = os.getpid()
    try:
        return ProcessId(pid, _start_ticks(pid) or 0)
    except OSError:
        return ProcessId(pid, 0)


def is_alive(process: ProcessId) -> bool:
    """
    Whether that very process still runs; a zombie does not.

    In doubt it does: where /proc is not there, or cannot be read now (this
    process may open no more files), who has that pid is taken for it.
    """
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        start_ticks = _start_ticks(process.pid)
    except OSError:
        return True
    if start_ticks is None:
        return not Path("/proc/self/stat").exists()
    return process.start_ticks in (0, start_ticks)


def _start_ticks(pid: int) -> int | None:
    """
    Start time of a running pid; None if it is gone, a zombie, or /proc is not there.

    Raises OSError if it cannot be told.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[_STAT_STATE] in _DEAD_STATES:
        return None
    return int(fields[_STAT_START_TIME])
