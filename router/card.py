"""
The card of a group's leader: where it answers and what it serves.

A leader leaves it in the run folder when it is ready (see workers.card) and
renames it into place, so it is never half written by a leader.  What is no
card all the same (a full disk, somebody's editor) is treated as none, and one
warning tells of it.  A card that cannot be read says nothing of its leader (this
process may be out of file descriptors), so the last one counts on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

import orjson

from router.instance import Instance
from shm.process import ProcessId

_log = logging.getLogger("levelhead.card")
DRAINING = "draining"
RELEASED = "released"
# What no number of a card may be beyond: a pid of 0 or -1 would be many processes'.
_BOUNDS = {"epoch": (1, 2**63 - 1), "port": (1, 65_535), "pid": (1, 2**31 - 1)}


@dataclass(frozen=True, slots=True)
class Card:
    """What a leader says of itself, in one incarnation."""

    dp_rank: int
    epoch: int
    host: str
    port: int
    pid: int
    model: str
    max_model_len: int
    tokenizer_dir: str | None = None
    page_size: int = 0
    kv_capacity_tokens: int = 0
    state: str = "ready"
    """`ready`; `released` while its memory is; `draining` once its process was asked to end."""
    start_ticks: int = 0
    """Tells its process from a later one with the same pid: see shm.process."""

    @property
    def process(self) -> ProcessId:
        """The leader's process."""
        return ProcessId(self.pid, self.start_ticks)

    @property
    def is_draining(self) -> bool:
        """Whether its process was asked to end."""
        return self.state == DRAINING

    @property
    def is_released(self) -> bool:
        """Whether it has given its memory back, or is about to."""
        return self.state == RELEASED


class CardReader:
    """Reads the cards of an instance; tells once of each that is none or cannot be read."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._last: dict[int, Card | None] = {}
        self._refused: dict[int, bytes] = {}
        self._unreadable: set[int] = set()

    def read(self, dp_rank: int) -> Card | None:
        """That group's card, or the last one if it cannot be read now; None if there is none."""
        path = self._instance.card(dp_rank)
        try:
            written = path.read_bytes()
        except FileNotFoundError:
            written = None
        except OSError as error:
            if dp_rank not in self._unreadable:
                self._unreadable.add(dp_rank)
                _log.warning("%s cannot be read, the last card counts on: %s", path, error)
            return self._last.get(dp_rank)
        self._unreadable.discard(dp_rank)
        self._last[dp_rank] = None if written is None else self._understood(dp_rank, written)
        return self._last[dp_rank]

    def _understood(self, dp_rank: int, written: bytes) -> Card | None:
        try:
            card = _card(written, dp_rank)
        except ValueError as error:
            if self._refused.get(dp_rank) != written:
                self._refused[dp_rank] = written
                path = self._instance.card(dp_rank)
                _log.warning("%s is no card and counts as none: %s", path, error)
            return None
        self._refused.pop(dp_rank, None)
        return card


def _card(written: bytes, dp_rank: int) -> Card:
    """Raises ValueError, saying what is wrong."""
    values = orjson.loads(written)
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__}, not an object")
    try:
        card = Card(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error
    for field in fields(Card):
        _check(field.name, str(field.type), getattr(card, field.name))
    for name, (lowest, highest) in _BOUNDS.items():
        if not lowest <= getattr(card, name) <= highest:
            raise ValueError(f"{name} is {getattr(card, name)}, not {lowest} to {highest}")
    if card.dp_rank != dp_rank:
        raise ValueError(f"it is group {card.dp_rank}'s")
    return card


def _check(name: str, wanted: str, value: Any) -> None:
    allowed = wanted.split(" | ")
    given = "None" if value is None else type(value).__name__
    if given not in allowed:
        raise ValueError(f"{name} is {value!r}, not {wanted}")
