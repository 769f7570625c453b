"""
A size-prefixed POSIX shared-memory object: header line, then payload.

    word  header (one 64-byte line of unsigned 64-bit words)
    0     payload size in bytes: written last at creation, 0 means not ready
    1     magic, kind and layout version
    2     epoch of the instance that made it
    3     current sequence of what is published in it (see shm.double_buffer)
    4     owner's pid
    5     owner's start time in clock ticks
    6..7  zero

The creator sizes the object, fills the line and writes word 0 last, so whoever
attaches half way sees 0 and is told to wait.  The size is compared with that
of the object itself before anything is mapped: nobody reads past the end, and
a live segment is never resized.

Mode 0600, and a segment of another user is refused: load figures and
addresses are nobody else's business, and theirs are not ours to believe.
"""

from __future__ import annotations

import mmap
import os
import time
from enum import IntEnum
from typing import NamedTuple

import posix_ipc

from shm import errors
from shm.names import Kind
from shm.process import ProcessId, is_alive, this_process

WORD_BYTES = 8
LINE_WORDS = 8
HEADER_BYTES = LINE_WORDS * WORD_BYTES
MAGIC = 0x4C564C48  # "LVLH"
LAYOUT_VERSION = 4
_MODE = 0o600
_CREATION_LIMIT_S = 10.0  # a segment without an owner for so long was left by a dead creator


class Header(IntEnum):
    """Word indexes in the header line."""

    SIZE = 0
    MAGIC = 1
    EPOCH = 2
    CURRENT = 3
    OWNER_PID = 4
    OWNER_START = 5


def magic_word(kind: Kind, version: int = LAYOUT_VERSION) -> int:
    """Word 1: 32 bits of magic, 16 of kind, 16 of layout version."""
    return MAGIC << 32 | kind << 16 | version


class Segment:
    """A mapped segment.  Closing unmaps it; only its owner unlinks it."""

    def __init__(self, name: str, mapping: mmap.mmap) -> None:
        self.name = name
        self._mapping = mapping
        self._bytes = memoryview(mapping)
        self.words: memoryview[int] = self._bytes[:HEADER_BYTES].cast("Q")
        self.payload = self._bytes[HEADER_BYTES : HEADER_BYTES + self.words[Header.SIZE]]

    def __repr__(self) -> str:
        return f"<Segment {self.name} {len(self.payload)} bytes, epoch {self.epoch}>"

    @property
    def epoch(self) -> int:
        """Epoch of the instance that made the segment."""
        return self.words[Header.EPOCH]

    def close(self) -> None:
        """Unmap.  Views handed out before must not be used any more."""
        self.payload.release()
        self.words.release()
        self._bytes.release()
        self._mapping.close()

    def unlink(self) -> None:
        """Remove the name; those who have it mapped keep it.  Twice does no harm."""
        unlink(self.name)


def create(name: str, kind: Kind, payload_bytes: int, epoch: int) -> Segment:
    """
    Make the segment, zeroed and owned by this process.

    What a dead owner left under that name is removed first.  Raises
    SegmentExists if its owner is alive, AccessDenied if it is another user's.
    """
    reclaim(name)
    try:
        handle = posix_ipc.SharedMemory(
            name, posix_ipc.O_CREX, mode=_MODE, size=HEADER_BYTES + payload_bytes
        )
    except posix_ipc.ExistentialError:
        raise errors.SegmentExists(f"{name} was created by somebody else just now") from None
    _reserve(name, handle.fd, HEADER_BYTES + payload_bytes)
    mapping = _map(handle, HEADER_BYTES + payload_bytes, mmap.ACCESS_WRITE)
    _write_header(memoryview(mapping), kind, payload_bytes, epoch)
    return Segment(name, mapping)


def _reserve(name: str, fd: int, size: int) -> None:
    """Have the memory now: a page that cannot be had later is a SIGBUS."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        os.close(fd)
        unlink(name)
        raise errors.NoMemory(f"{name} needs {size} bytes of shared memory: {error}") from error


def _write_header(view: memoryview, kind: Kind, payload_bytes: int, epoch: int) -> None:
    owner = this_process()
    words = view.cast("Q")
    words[Header.MAGIC] = magic_word(kind)
    words[Header.EPOCH] = epoch
    words[Header.OWNER_PID] = owner.pid
    words[Header.OWNER_START] = owner.start_ticks
    words[Header.SIZE] = payload_bytes  # last: from here on it is ready
    words.release()
    view.release()


def attach(name: str, kind: Kind, *, writable: bool = False) -> Segment:
    """
    Map an existing segment.

    Raises SegmentMissing, NotReady, WrongMagic, WrongVersion, Truncated or
    AccessDenied, each with the values that disagree.
    """
    handle = _open(name, writable=writable)
    object_bytes = os.fstat(handle.fd).st_size
    if object_bytes < HEADER_BYTES:
        handle.close_fd()
        raise errors.NotReady(f"{name} has {object_bytes} bytes, its creator has not finished")
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    mapping = _map(handle, object_bytes, access)
    try:
        _check_header(name, mapping, kind, object_bytes)
    except errors.SegmentError:
        mapping.close()
        raise
    return Segment(name, mapping)


def _open(name: str, *, writable: bool) -> posix_ipc.SharedMemory:
    try:
        handle = posix_ipc.SharedMemory(name, read_only=not writable)
    except posix_ipc.ExistentialError:
        raise errors.SegmentMissing(f"there is no segment {name}") from None
    except (posix_ipc.PermissionsError, PermissionError):
        raise errors.AccessDenied(f"{name} may not be opened by uid {os.geteuid()}") from None
    owner_uid = os.fstat(handle.fd).st_uid
    if owner_uid != os.geteuid():
        handle.close_fd()
        raise errors.AccessDenied(f"{name} belongs to uid {owner_uid}, not to {os.geteuid()}")
    return handle


def _map(handle: posix_ipc.SharedMemory, size: int, access: int) -> mmap.mmap:
    try:
        return mmap.mmap(handle.fd, size, access=access)
    finally:
        handle.close_fd()


def _check_header(name: str, mapping: mmap.mmap, kind: Kind, object_bytes: int) -> None:
    with memoryview(mapping) as view, view[:HEADER_BYTES] as line, line.cast("Q") as words:
        size, magic = words[Header.SIZE], words[Header.MAGIC]
    if size == 0:
        raise errors.NotReady(f"{name} has size 0, its creator has not finished")
    if magic >> 32 != MAGIC or magic >> 16 & 0xFFFF != kind:
        raise errors.WrongMagic(
            f"{name} has magic {magic:#018x}, a {kind.name.lower()} segment has "
            f"{magic_word(kind):#018x}"
        )
    if magic & 0xFFFF != LAYOUT_VERSION:
        raise errors.WrongVersion(
            f"{name} has layout version {magic & 0xFFFF}, this is version {LAYOUT_VERSION}"
        )
    if object_bytes < HEADER_BYTES + size:
        raise errors.Truncated(
            f"{name} has {object_bytes} bytes, its header promises {HEADER_BYTES + size}"
        )


class Ownership(NamedTuple):
    """Who made a segment, and when."""

    owner: ProcessId | None
    """None if the creator had not written it (yet)."""
    created_s: float
    """Seconds since 1970."""


def ownership(name: str) -> Ownership:
    """
    Owner and age of the segment.

    Raises SegmentMissing or AccessDenied.  Looks at the owner's words only, so
    that another version's leftovers can be judged too.
    """
    handle = _open(name, writable=False)
    status = os.fstat(handle.fd)
    if status.st_size < HEADER_BYTES:
        handle.close_fd()
        return Ownership(None, status.st_mtime)
    with (
        _map(handle, HEADER_BYTES, mmap.ACCESS_READ) as mapping,
        memoryview(mapping) as view,
        view.cast("Q") as words,
    ):
        owner = ProcessId(words[Header.OWNER_PID], words[Header.OWNER_START])
    return Ownership(owner if owner.pid else None, status.st_mtime)


def reclaim(name: str) -> bool:
    """
    Remove the segment if its owner is dead; whether there was one to remove.

    Raises SegmentExists if the owner is alive or not known yet, AccessDenied
    if the segment is another user's.
    """
    try:
        owner, created_s = ownership(name)
    except errors.SegmentMissing:
        return False
    if owner is None and time.time() - created_s < _CREATION_LIMIT_S:
        raise errors.SegmentExists(f"{name} is being created by somebody else")
    if owner is not None and is_alive(owner):
        raise errors.SegmentExists(f"{name} belongs to process {owner.pid}, which is alive")
    unlink(name)
    return True


def unlink(name: str) -> None:
    """Remove the name if it is there."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return
