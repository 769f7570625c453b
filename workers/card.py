"""
The card of a leader: where it answers and what it serves, for the root to read.

`<run-dir>/group-<dp_rank>.json`, there from the moment the HTTP server answers
until the worker stops, and never seen half written.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """One leader, in one incarnation."""

    dp_rank: int
    epoch: int
    host: str
    port: int
    pid: int
    model: str
    max_model_len: int
    page_size: int
    kv_capacity_tokens: int
    tokenizer_dir: str

    def write(self, run_dir: Path) -> None:
        """Put the card into run_dir."""
        path = self._path(run_dir)
        partial = path.with_suffix(f".{self.epoch}.partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)

    def remove(self, run_dir: Path) -> None:
        """Take the card away, unless a later incarnation has replaced it."""
        path = self._path(run_dir)
        if path.exists() and json.loads(path.read_text())["epoch"] == self.epoch:
            path.unlink()

    @classmethod
    def last_epoch(cls, run_dir: Path, dp_rank: int) -> int:
        """Epoch of the card that an earlier incarnation left; 0 if there is none."""
        path = _path_of(run_dir, dp_rank)
        return int(json.loads(path.read_text())["epoch"]) if path.exists() else 0

    def _path(self, run_dir: Path) -> Path:
        return _path_of(run_dir, self.dp_rank)


def _path_of(run_dir: Path, dp_rank: int) -> Path:
    return run_dir / f"group-{dp_rank}.json"
