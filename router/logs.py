"""One way to log for all of the instance's processes: to standard error, one line a record."""

from __future__ import annotations

import logging

LOG_LEVELS = ("debug", "info", "warning", "error")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure_logging(level: str) -> None:
    """Log levelhead.* at that level and everybody else's warnings."""
    logging.basicConfig(format=_FORMAT, datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("levelhead").setLevel(level.upper())
