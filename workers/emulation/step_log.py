"""
What emulated steps were made of, a JSON line each (`--emulated-step-log`).

    {"round": 7, "start_s": 81.25, "duration_ms": 25.4, "late_ms": 0.0, "gap_ms": 4.5, "ranks": [
      {"dp_rank": 0, "kv_tokens": 812, "requests": 3, "prefill_tokens": 0, "cost_ms": 0.246}, …]}

start_s: of time.monotonic, which all processes of a machine share.  Ranks that had nothing
to compute are not in it.  Lines are appended, and each is there as soon as its round is over.
After one that could not be written, or not wholly, nothing is logged any more.
"""

from __future__ import annotations

import logging
from pathlib import Path

import orjson

from workers.emulation.barrier import Round
from workers.emulation.step_cost import StepCost
from workers.errors import InvalidConfig

logger = logging.getLogger("levelhead.workers.emulation")


class StepLog:
    """Appends to a file, or to none.  Raises InvalidConfig if that cannot be opened."""

    def __init__(self, path: Path | None, cost: StepCost) -> None:
        self._cost = cost
        try:
            self._file = None if path is None else path.open("ab", buffering=0)
        except OSError as error:
            raise InvalidConfig(f"--emulated-step-log {path}: {error}") from error

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def write(self, ended: Round) -> None:
        """Tell of a round."""
        if self._file is None:
            return
        told = {
            "round": ended.number,
            "start_s": ended.start_s,
            "duration_ms": ended.duration_ms,
            "late_ms": ended.late_ms,
            "gap_ms": ended.gap_ms,
            "ranks": [
                {"dp_rank": rank, **share._asdict(), "cost_ms": self._cost.own_ms(share)}
                for rank, share in sorted(ended.shares.items())
            ],
        }
        line = orjson.dumps(told) + b"\n"
        try:
            if self._file.write(line) == len(line):
                return
            error = "a line could be written in part only"
        except OSError as refused:
            error = str(refused)
        logger.warning("steps are logged no more, from round %d on: %s", ended.number, error)
        self.close()
