"""
The request log: a JSON line for each answered request, for `levelhead simulate`.

    {"arrival_s": 1763740000.125, "prompt_tokens": 812, "output_tokens": 97,
     "page_size": 128, "page_digests": [7042913384509921035, ...]}

Lengths, times and digests, never text.  A digest stands for all of the prompt up
to its page's end (see shm.page_digest), so of pages under 128 tokens only each
so many-th is written; there are none where the method in use names no pages.
Output tokens are those that the answer's `usage` tells, or the events of a stream.

Noting costs no system call.  `flush` writes all lines at once to a file opened
to append, which several front doors share: whole lines, in the order of their ends.
Where that fails lines are dropped, a warning tells it once, and a torn one is ended first.
What a front door that was killed has left unfinished, `levelhead simulate` leaves out.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from balancer.load import RequestShape
from router.errors import ConfigError

_log = logging.getLogger("levelhead.front_door")
_LEAST_PAGE_TOKENS = 128
_MODE = 0o600


def open_request_log(path: Path) -> int:
    """
    Open to append, for this user alone; return the descriptor.

    Raises ConfigError if that cannot be, or if it is a pipe or a device: writing must not
    block, and others' devices keep their mode.
    """
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, how, _MODE)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError("--request-log", path, _why("it is a device or a pipe"))
            os.fchmod(descriptor, _MODE)
        except (OSError, ConfigError):
            os.close(descriptor)
            raise
    except OSError as error:
        raise ConfigError("--request-log", path, _why(os.strerror(error.errno or 0))) from error
    return descriptor


def _why(reason: str) -> str:
    return f"it must be a file that can be appended to ({reason})"


class RequestLog:
    """Of one front door; owns the descriptor.  `wall_s` is the time since 1970."""

    def __init__(self, descriptor: int, wall_s: Callable[[], float]) -> None:
        self._descriptor = descriptor
        self._wall_s = wall_s
        self._lines: list[bytes] = []
        self._is_torn = self._is_failing = False

    @classmethod
    def opened(cls, path: str | None) -> RequestLog | None:
        """Open that file to append to, if there is one.  Raises as open_request_log does."""
        return None if path is None else cls(open_request_log(Path(path)), time.time)

    def note(self, age_s: float, shape: RequestShape, output_tokens: int) -> None:
        """A request that arrived so long ago was answered."""
        line: dict[str, float | list[int]] = {
            "arrival_s": round(self._wall_s() - age_s, 6),
            "prompt_tokens": shape.prompt_tokens,
            "output_tokens": output_tokens,
        }
        if shape.page_digests:
            stride = -(-_LEAST_PAGE_TOKENS // shape.page_size)
            if digests := list(shape.page_digests[stride - 1 :: stride]):
                line |= {"page_size": shape.page_size * stride, "page_digests": digests}
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write what was noted since the last time."""
        if not self._lines:
            return
        lines = b"\n" * self._is_torn + b"".join(self._lines)
        self._lines.clear()
        try:
            written = os.write(self._descriptor, lines)
        except OSError as error:
            self._fail(os.strerror(error.errno or 0))
            return
        self._is_torn = written < len(lines) and not lines[:written].endswith(b"\n")
        if written < len(lines):
            self._fail("no room for all")
        else:
            self._is_failing = False

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        os.close(self._descriptor)

    def _fail(self, why: str) -> None:
        if not self._is_failing:
            _log.warning("the request log misses requests: %s", why)
        self._is_failing = True
