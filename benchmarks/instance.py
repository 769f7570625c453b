"""A running `levelhead serve`, for as long as a benchmark needs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

_READY = re.compile(r"levelhead is ready: (http://\S+)/v1")
_STOP_LIMIT_S = 60.0


def served(*flags: str) -> AbstractContextManager[str]:
    """The URL of an instance on a free port; it is stopped in the end."""
    return running([sys.executable, "-m", "router.cli", "serve", "--port", "0", *flags])


@contextmanager
def running(command: Sequence[str], stop_limit_s: float = _STOP_LIMIT_S) -> Iterator[str]:
    """
    The URL that the command says; what it says after that goes to stderr.

    It is told to stop in the end.  If it does not, it is killed, and with it all that it
    started (router.child), and subprocess.TimeoutExpired is raised.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True)
    try:
        found = next(filter(None, map(_READY.search, process.stdout)), None)
        reader.start()
        if found is None:
            raise RuntimeError("levelhead serve did not become ready")
        yield found[1]
    finally:
        _stop(process, stop_limit_s)
        if reader.is_alive():
            reader.join(stop_limit_s)


def _pass_on(said: TextIO) -> None:
    """Nobody else reads the pipe, and who writes into a full one stands still."""
    with said:
        sys.stderr.writelines(said)


def _stop(process: subprocess.Popen[str], limit_s: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(limit_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
