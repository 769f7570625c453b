"""
Removes what killed instances left: segments whose owner is dead.

A SIGKILLed owner cannot unlink, so whoever starts next does it, for every
instance of this user and never for one whose owner is alive.
"""

from __future__ import annotations

from pathlib import Path

from shm import segment
from shm.errors import SegmentError
from shm.names import PREFIX

_SHM_FOLDER = Path("/dev/shm")


def sweep(folder: Path = _SHM_FOLDER) -> list[str]:
    """
    Unlink every segment of ours whose owner is dead; return their names.

    Does nothing where the system does not list segments as files (macOS):
    there only a start under the same instance name reclaims them.
    """
    names = sorted("/" + path.name for path in folder.glob(PREFIX.lstrip("/") + "*"))
    return [name for name in names if _reclaimed(name)]


def _reclaimed(name: str) -> bool:
    try:
        return segment.reclaim(name)
    except SegmentError:
        return False  # alive, another user's, or being made: not ours to remove
