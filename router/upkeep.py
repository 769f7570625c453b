"""
Keeps something running: starts it again whenever it ends.

What keeps failing is started again ever more slowly (see router.pauses).  One that was ready
and ends with status 0 was asked to (a group that has drained): it is started again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from router.errors import StartError
from router.pauses import Life, Pauses
from router.unit import Unit

_log = logging.getLogger("levelhead.serve")
_NEVER_READY = Life(1, None)


class Kept(Protocol):
    """One process (a unit), or several that live and end together (a set of ranks)."""

    name: str

    @property
    def units(self) -> Sequence[Unit]:
        """Its processes."""

    @property
    def starts(self) -> str:
        """Who is started again, and `is` or `are`."""

    async def start(self) -> None:
        """Begin a life.  Raises StartError, and then nothing of it runs."""

    async def life(self) -> Life:
        """Wait until it has ended; return how its life went."""

    def last_end(self) -> str:
        """Which process ended, and how."""

    def between_lives(self) -> None:
        """What follows the end of a life."""

    async def stop(self) -> None:
        """End it, if it runs."""


async def keep(kept: Kept, pauses: Pauses) -> None:
    """For ever: it has been started once."""
    pause_s: float | None = None
    while True:
        life = await kept.life()
        pause_s = pauses.after(pause_s, life)
        _tell(kept, pause_s)
        _between_lives(kept)
        await asyncio.sleep(pause_s or 0)
        while not await _has_started(kept):
            pause_s = pauses.after(pause_s, _NEVER_READY)
            await asyncio.sleep(pause_s or 0)


async def _has_started(kept: Kept) -> bool:
    try:
        await kept.start()
    except StartError as error:
        _log.error("%s", error)
        return False
    return True


def _between_lives(kept: Kept) -> None:
    """What fails here costs figures; a process that is not started again costs more."""
    try:
        kept.between_lives()
    except Exception:  # noqa: BLE001  whatever it is, the process is needed
        _log.exception(
            "what follows the end of %s failed; %s started again", kept.name, kept.starts
        )


def _tell(kept: Kept, pause_s: float | None) -> None:
    told = (kept.last_end(), kept.starts)
    if pause_s is None:
        _log.info("%s; %s started again", *told)
    else:
        _log.error("%s; %s started again in %.1f s", *told, pause_s)
