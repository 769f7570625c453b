"""A running `levelhead serve`, for as long as a benchmark needs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_READY = re.compile(r"levelhead is ready: (http://\S+)/v1")
_STOP_LIMIT_S = 60.0


@contextmanager
def served(*flags: str) -> Iterator[str]:
    """The URL of an instance on a free port; it is stopped in the end."""
    command = [sys.executable, "-m", "router.cli", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next(filter(None, map(_READY.search, process.stdout)), None)
        if found is None:
            raise RuntimeError("levelhead serve did not become ready")
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_LIMIT_S)
