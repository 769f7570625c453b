"""
Looks at an instance on this host by its segments, as front doors do.

Needs no key and no control plane: the segments and the front doors' sockets are this user's
alone, and are there while the control plane is not.  Segments of another life of the instance
are let go of, and the present ones taken.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from router.control_plane.door_figures import front_doors_of
from router.control_plane.figures import Figures
from router.control_plane.front_doors import read_meters
from router.control_plane.loads import loads_of
from router.errors import ConfigError, NoPicture
from router.instance import Instance
from router.top.http_source import HttpSource
from router.top.picture import Look
from shm.board import Board
from shm.errors import SegmentError
from shm.group_table import GroupTableReader
from shm.load import LoadReader
from shm.process import is_alive


class SegmentSource:
    """Reads load segment, board and group table of one life of the instance at a time."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._opened: _Opened | None = None

    async def look(self) -> Look:
        """Raises NoPicture while the instance does not run, or has published nothing yet."""
        opened = await self._current()
        at_s = time.monotonic()
        # Asked before the segments are read: one that hangs would let their figures grow old.
        meters, decisions = await asyncio.gather(
            read_meters(self._instance), opened.control.decisions()
        )
        try:
            table = opened.table.snapshot()
            if table is None:
                raise NoPicture(f"{self._instance.name} has published no group yet")
            figures = opened.figures.read(table.groups)
        except SegmentError as error:
            raise NoPicture(f"{self._instance.name}: {error}") from error
        loads = loads_of(figures, time.time())
        loads.front_doors = front_doors_of(self._instance, meters)
        return Look(at_s, loads, decisions)

    async def close(self) -> None:
        """Unmap what is mapped."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def _current(self) -> _Opened:
        try:
            found = Instance.load(Path(self._instance.run_dir))
        except ConfigError as error:
            raise NoPicture(f"{self._instance.name} is not running") from error
        if not is_alive(found.root):
            raise NoPicture(f"{self._instance.name} is not running: its process has ended")
        if self._opened is None or found.epoch != self._instance.epoch:
            await self.close()
            self._opened, self._instance = _Opened(found), found
        return self._opened


class _Opened:
    """What is mapped of one life of an instance."""

    def __init__(self, instance: Instance) -> None:
        try:
            self.table = GroupTableReader.attach(instance.name)
            self._loads = LoadReader.attach(instance.name)
            self._board = Board.attach(instance.name)
        except SegmentError as error:
            raise NoPicture(f"{instance.name}: {error}") from error
        self.figures = Figures(self._loads, self._board, time.monotonic_ns)
        self.control = HttpSource.of_control_plane(instance)

    async def close(self) -> None:
        """Unmap."""
        for each in (self.table, self._loads, self._board):
            each.close()
        await self.control.close()
