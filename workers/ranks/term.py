"""
Who publishes: the holder of a lock, and where the others find it.

    <run-dir>/publisher.lock   flock, held by the publisher for as long as it lives
    <run-dir>/publisher.json   its term, written once it has the lock

The kernel gives the lock to one process, and takes it back when that process is
dead, however it died, and not before.  So there are never two who write the load
segment: a publisher that is stopped keeps the lock, and one that has lost it runs
no more.  Nobody counts seconds for that, and nobody votes.

publisher.json may be that of a dead publisher, until the next has replaced it.
Whoever follows it then finds nobody, and looks again.

The folder is the user's own (0700), so who knows a term's seal may read there: it
is a leader of this instance.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from workers.engine.meter import GroupId

SEAL_BYTES = 16


@dataclass(frozen=True)
class Term:
    """
    One publisher's time.

    host and port: of its store, where others join.  seal: 32 random hexadecimal
    digits, known to nobody else (see workers.ranks.links).
    """

    term: int
    dp_rank: int
    epoch: int
    host: str
    port: int
    seal: str

    def __post_init__(self) -> None:
        if len(bytes.fromhex(self.seal)) != SEAL_BYTES:
            raise ValueError(f"a seal has {SEAL_BYTES} bytes, not {self.seal!r}")

    @property
    def group(self) -> GroupId:
        """Whose leader publishes."""
        return GroupId(self.dp_rank, self.epoch)

    @property
    def name(self) -> str:
        """A name that no other term has, of this instance or another one's; not the seal."""
        return f"{self.epoch}-{self.term}-{hashlib.sha256(self.seal.encode()).hexdigest()[:32]}"

    def write(self, run_dir: Path) -> None:
        """Tell the others; for the holder of the lock alone."""
        path = _term_path(run_dir)
        partial = path.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)

    @classmethod
    def read(cls, run_dir: Path) -> Term | None:
        """Return the last term; None before the first, or if the file is damaged."""
        try:
            return cls(**json.loads(_term_path(run_dir).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def wait_for_lock(run_dir: Path) -> BinaryIO:
    """Return the lock once it is free.  It is held until the file, or the process, is closed."""
    file = (run_dir / "publisher.lock").open("ab")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _term_path(run_dir: Path) -> Path:
    return run_dir / "publisher.json"
