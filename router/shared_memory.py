"""The segments of an instance: made by the root before anybody starts, removed at its end."""

from __future__ import annotations

import logging
from typing import Self

from router.errors import StartError
from shm import board, group_table, load
from shm.errors import SegmentError
from shm.segment import Segment
from shm.sweep import sweep

_log = logging.getLogger("levelhead.serve")


class SharedMemory:
    """Owns the three segments; a context manager."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments

    @classmethod
    def create(cls, instance: str, epoch: int, groups: int, doors: int) -> Self:
        """
        Sweep what dead instances left and make this one's segments.

        Raises StartError if an instance of that name is running.
        """
        for name in sweep():
            _log.info("removed %s, left by an instance that was killed", name)
        made: list[Segment] = []
        try:
            made.append(load.create(instance, groups, doors, epoch))
            made.append(board.create(instance, doors, groups, epoch))
            made.append(group_table.create(instance, groups, epoch))
        except SegmentError as error:
            cls(made).__exit__()
            raise StartError(f"instance {instance!r} cannot start: {error}") from error
        return cls(made)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for segment in self._segments:
            segment.unlink()
            segment.close()
