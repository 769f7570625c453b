"""
The private folder of an instance: sockets, cards, the publisher's lock, tokenizer.

Under XDG_RUNTIME_DIR, or the system's folder for temporary files; mode 0700.
Paths in it are short, because a Unix socket's path may have 107 bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from router.errors import ConfigError, StartError
from router.instance import Instance
from shm.process import is_alive

_MAX_SOCKET_PATH = 107
_LONGEST_NAME = "front-door-999.sock"


def make_run_folder(instance: str, environment: Mapping[str, str]) -> Path:
    """
    Make an empty folder for that instance.

    The caller has made sure that no live instance has that name (it owns the
    segments).  Raises StartError if the folder cannot be had or is another
    user's.
    """
    folder = _above(environment) / f"levelhead-{os.geteuid()}" / instance
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


def _above(environment: Mapping[str, str]) -> Path:
    """XDG_RUNTIME_DIR if it is a folder of this user (under su it is not), or the temporary one."""
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or os.devnull)
    is_ours = runtime.is_dir() and runtime.stat().st_uid == os.geteuid()
    return runtime if is_ours else Path(tempfile.gettempdir())


def sweep_run_folders(folder: Path) -> list[Path]:
    """Remove the folders beside this one whose instance's root is dead; return them."""
    others = [other for other in folder.parent.iterdir() if other != folder and other.is_dir()]
    dead = [other for other in others if _is_dead(other)]
    for other in dead:
        shutil.rmtree(other, ignore_errors=True)
    return dead


def running_instances(environment: Mapping[str, str]) -> list[Instance]:
    """Those of this user whose root is alive, by name; of another version: left out."""
    user = f"levelhead-{os.geteuid()}"
    temporary = environment.get("TMPDIR") or tempfile.gettempdir()
    above = {_above(environment), Path(temporary)}  # who looks may have a session, `serve` none
    folders = [folder for each in above for folder in (each / user).glob("*") if folder.is_dir()]
    found = {}
    for folder in folders:
        with suppress(ConfigError):
            found[folder] = Instance.load(folder)
    alive = [each for each in found.values() if is_alive(each.root)]
    return sorted(alive, key=lambda each: each.name)


def _is_dead(folder: Path) -> bool:
    try:
        return not is_alive(Instance.load(folder).root)
    except ConfigError:
        return False  # being made, or not an instance's: not ours to judge


def remove_run_folder(folder: Path) -> None:
    """Remove it with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
