"""
The private folder of an instance: sockets, cards, rendezvous files, tokenizer.

Under XDG_RUNTIME_DIR, or the system's folder for temporary files; mode 0700.
Paths in it are short, because a Unix socket's path may have 107 bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from router.errors import StartError

_MAX_SOCKET_PATH = 107
_LONGEST_NAME = "front-door-999.sock"


def make_run_folder(instance: str, environment: Mapping[str, str]) -> Path:
    """
    Make an empty folder for that instance.

    The caller has made sure that no live instance has that name (it owns the
    segments).  Raises StartError if the folder cannot be had or is another
    user's.
    """
    runtime = environment.get("XDG_RUNTIME_DIR")
    above = Path(runtime) if runtime else Path(tempfile.gettempdir())
    folder = above / f"levelhead-{os.geteuid()}" / instance
    if len(str(folder / _LONGEST_NAME).encode()) > _MAX_SOCKET_PATH:
        raise StartError(f"{folder} is too long a path for Unix sockets: shorten --instance")
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        owner = folder.parent.lstat().st_uid
        if owner != os.geteuid():
            raise StartError(f"{folder.parent} belongs to uid {owner}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise StartError(f"cannot make the folder {folder}: {error}") from error
    return folder


def remove_run_folder(folder: Path) -> None:
    """Remove it with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
