"""
torchrun as a child: a launcher whose ranks are asked to end, not it.

    stop     SIGTERM to each rank ─► they drain, together, and exit 0 ─► so does torchrun
    kill     SIGKILL to torchrun ─► the kernel kills its ranks (see workers.torchrun)

Told to end itself, torchrun gives its ranks 30 s of its own, and exits with a stack.  It is
told all the same if it has no rank yet.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from router.child import Child


class Torchrun(Child):
    """A running torchrun."""

    def _ask_to_end(self) -> None:
        ranks = [] if self.returncode is not None else children_of(self.pid)
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if not ranks:
            super()._ask_to_end()


def children_of(pid: int) -> list[int]:
    """Pids of a process's children, by what the kernel says; none if it does not say."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for told in lists for child in told.split()]
