"""
The source that is a file: read at the start, and looked at every second from then on.

    a look finds                 what is done
    what was taken already       nothing
    something else               it is looked at again, a moment later
    the same as a moment ago     it is taken: told if good, logged once if not

Somebody may be writing the file just then: half of a list is a list, too, and would
send half of the backends away.  So only what two looks have found is taken.  The content
decides, whatever the time of writing: links that are swapped (Kubernetes does that), files that are
replaced and files that are written over are all the same here, and so is a second that is
the same one.  A file is of a few kilobytes and at most 1 MiB, so it is simply read.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from router.backends.backend import Backend
from router.backends.backends_file import MAX_BYTES, SUFFIXES, backends_in
from router.backends.lacks import Lacks
from router.backends.standing import Standing, Tell

_PERIOD_S = 1.0
_SETTLING_S = 0.25


class _Look(NamedTuple):
    """What a look has found: the content, or why there is none."""

    content: bytes
    why_none: str | None = None


class FileSource:
    """Tells what a file says."""

    def __init__(
        self,
        path: Path,
        lacks: Lacks,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._lacks = lacks
        self._sleep = sleep
        self.standing = Standing(f"--backends-file {path}")
        self._seen: _Look | None = None
        self._taken: _Look | None = None

    @property
    def name(self) -> str:
        """The flag and the file."""
        return self.standing.name

    async def keep(self, tell: Tell) -> None:
        """Tell what it says, and what it says when that changes, for ever."""
        while True:
            await self._sleep(_PERIOD_S if await self.look(tell) else _SETTLING_S)

    async def look(self, tell: Tell) -> bool:
        """Look once; False if it has to be looked at again soon."""
        found = await asyncio.to_thread(_look, self._path)
        is_settled, self._seen = found == self._seen, found
        if is_settled and found != self._taken:
            self._taken = found
            await self._take(found, tell)
        return is_settled

    async def _take(self, found: _Look, tell: Tell) -> None:
        try:  # a large file takes seconds, in which others are to be answered
            backends = await asyncio.to_thread(_backends, found, self._path, self._lacks)
        except ValueError as error:
            self.standing.bad(str(error), key=found)
        else:
            self.standing.good(backends, tell)


def read_backends(path: Path, lacks: Lacks) -> tuple[Backend, ...]:
    """What the file says now.  Raises ValueError, saying what is wrong and what is allowed."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"allowed are files that end in {', '.join(SUFFIXES)}")
    return _backends(_look(path), path, lacks)


def _backends(found: _Look, path: Path, lacks: Lacks) -> tuple[Backend, ...]:
    if found.why_none is not None:
        raise ValueError(found.why_none)
    return backends_in(found.content, path.suffix, lacks)


def _look(path: Path) -> _Look:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would not end
            return _Look(b"", "is no file")
        with path.open("rb") as file:
            return _Look(file.read(MAX_BYTES + 1))
    except OSError as error:
        return _Look(b"", f"cannot be read: {error.strerror or error}")
