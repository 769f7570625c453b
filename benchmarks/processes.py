"""
Processes that a benchmark starts: their CPU time, their memory, their end.

CPU time is utime + stime of a process and all its descendants.  It is read
from the kernel's CPU clock of each process (clock_getcpuclockid(3)), the same
sum as in /proc/PID/stat but in nanoseconds rather than ticks of 10 ms.

Every child dies with the benchmark: by `ChildProcess.stop` on the ordinary
exits, else by the kernel's parent-death signal, which is SIGTERM so that nginx
takes its worker along.  Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2
_STOP_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessError(Exception):
    """A process that the benchmark needs did not start, or ended too early."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ChildProcess:
    """A command that runs until `stop`, with its output in a log file."""

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=_die_with_parent,  # safe: we have one thread
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def check_running(self) -> None:
        """Raise ProcessError with the end of the log if the process is gone."""
        if self._popen.poll() is not None:
            raise ProcessError(f"ended with code {self._popen.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-800:]

    def cpu_ns(self) -> int:
        """CPU time of the process and its living descendants since they started."""
        return sum(_cpu_ns(pid) for pid in self._pids())

    def rss_bytes(self) -> int:
        """Resident memory now, summed over the tree; shared pages count in each process."""
        return sum(_rss_bytes(pid) for pid in self._pids())

    def stop(self) -> None:
        """End the process and its descendants: SIGTERM, then SIGKILL after a while."""
        descendants = [_pidfd(pid) for pid in self._pids()[1:]]
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(_STOP_S)
        for pidfd in descendants:
            _kill(pidfd)

    def _pids(self) -> list[int]:
        """The process, then its descendants."""
        pids = [self._popen.pid]
        for pid in pids:  # grows while we walk it
            pids += _children(pid)
        return pids


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _cpu_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return 0  # it ended since we listed it


def _rss_bytes(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _pidfd(pid: int) -> int | None:
    """A handle that cannot come to mean another process, as a pid can."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _kill(pidfd: int | None) -> None:
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
