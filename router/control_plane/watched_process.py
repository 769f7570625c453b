"""
A process that is not our child: told of its end at once, and never taken for another.

A pid is reused; a pid and its start time are not, and neither is a pidfd
(Linux), which stands for the process that it was opened for, dead or alive, and
becomes readable when that ends.  The start time is compared after the pidfd is
open, so what it stands for from then on is the process that was meant.

Where there are no pidfds, the end is noticed by whoever asks `is_alive`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from shm.process import ProcessId, is_alive


class WatchedProcess:
    """One process, from when it is first heard of until nobody cares any more."""

    def __init__(self, process: ProcessId, on_exit: Callable[[], None]) -> None:
        """`on_exit` is called in the running loop, once, unless it is closed before."""
        self.process = process
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._has_ended = False
        self._pidfd = _open(process.pid)
        if self._pidfd is not None and self.is_alive():
            self._loop.add_reader(self._pidfd, self._ended)

    def is_alive(self) -> bool:
        """Whether it runs.  Another user's process is not the one that was meant."""
        if self._has_ended:
            return False
        try:
            os.kill(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return is_alive(self.process)

    def terminate(self) -> bool:
        """Send it SIGTERM, and no other process; whether there was anybody to send it to."""
        if not self.is_alive():
            return False
        try:
            if self._pidfd is None:
                os.kill(self.process.pid, signal.SIGTERM)
            else:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Watch no more.  May be called again."""
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _ended(self) -> None:
        self._has_ended = True
        self.close()
        self._on_exit()


def _open(pid: int) -> int | None:
    """A pidfd; None where there are none, or if nobody has that pid."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
