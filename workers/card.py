"""
The card of a leader: where it answers and what it serves, for the root to read.

`<run-dir>/group-<dp_rank>.json`, there from the moment the HTTP server answers
until the worker stops, and never seen half written.  It is replaced when the leader
releases memory and has it again, and when it is told to stop and begins to drain.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

logger = logging.getLogger("levelhead.workers")


class State(StrEnum):
    """What a leader that has a card does."""

    READY = "ready"
    RELEASED = "released"
    """It has given memory back, or is about to, and is to be sent nothing."""
    DRAINING = "draining"


@dataclass(frozen=True)
class Card:
    """One leader, in one incarnation.  start_ticks: as in shm.process, 0 if unknown."""

    dp_rank: int
    epoch: int
    host: str
    port: int
    pid: int
    start_ticks: int
    model: str
    max_model_len: int
    page_size: int
    kv_capacity_tokens: int
    tokenizer_dir: str
    state: State = State.READY

    def write(self, run_dir: Path) -> None:
        """Put the card into run_dir."""
        path = _path_of(run_dir, self.dp_rank)
        partial = path.with_suffix(f".{self.epoch}.partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)

    def remove(self, run_dir: Path) -> None:
        """Take the card away, unless a later incarnation has replaced it."""
        path = _path_of(run_dir, self.dp_rank)
        if _epoch_in(path) == self.epoch:
            path.unlink()

    @classmethod
    def last_epoch(cls, run_dir: Path, dp_rank: int) -> int:
        """Epoch of the card that an earlier incarnation left; 0 if there is none."""
        return _epoch_in(_path_of(run_dir, dp_rank))


class PostedCard:
    """
    The card in the run folder, as its leader's state changes.

    Draining is for good: whatever comes of the memory then, nobody is to come any more.
    """

    def __init__(self, card: Card, run_dir: Path) -> None:
        self._card = card
        self._run_dir = run_dir

    def post(self, state: State = State.READY) -> None:
        """Say that the leader is in that state."""
        if self._card.state is not State.DRAINING:
            self._card = replace(self._card, state=state)
            self._card.write(self._run_dir)

    def remove(self) -> None:
        """Take the card away."""
        self._card.remove(self._run_dir)


def _path_of(run_dir: Path, dp_rank: int) -> Path:
    return run_dir / f"group-{dp_rank}.json"


def _epoch_in(path: Path) -> int:
    try:
        return int(json.loads(path.read_bytes())["epoch"])
    except FileNotFoundError:
        return 0
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged and counts as none: %r", path, error)
        return 0
