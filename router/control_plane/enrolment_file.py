"""
What the control plane must know again after it was killed: `enrolment.json` in the run folder.

Written whole beside its place and then put there, before the group table says the same.  So
whatever moment it dies at, its next life finds the roster, the engines, their slots
and the last epoch as they were before the change or after it; the table, whose rows are
matched by slot and epoch, adds how each group did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from router.errors import EnrolmentBroken, EnrolmentUnsaved

_NAME = "enrolment.json"


class EnrolmentFile:
    """Belongs to the control plane alone."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _NAME
        self._saved: bytes | None = None

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None if nothing ever was.  Raises EnrolmentBroken."""
        try:
            self._saved = self._path.read_bytes()
            found: dict[str, Any] = orjson.loads(self._saved)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self.broken(error) from error
        return found

    def broken(self, why: Exception) -> EnrolmentBroken:
        """What to raise if what was saved makes no sense."""
        return EnrolmentBroken(self._path, f"{type(why).__name__}: {why}")

    def save(self, remembered: dict[str, Any]) -> None:
        """Replace what was saved, if it differs.  Raises EnrolmentUnsaved; then that stands."""
        content = orjson.dumps(remembered)
        if content == self._saved:  # so a later life that changes nothing needs no room for it
            return
        beside = self._path.with_suffix(".new")
        try:
            beside.touch(mode=0o600)
            beside.write_bytes(content)
            beside.replace(self._path)
        except OSError as error:
            raise EnrolmentUnsaved(self._path, error) from error
        self._saved = content
