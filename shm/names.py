"""
Names of segments: `/levelhead-<instance>-<kind>`.

An instance is one `levelhead serve` on a host.  Two instances never share a
name, so they never see each other's segments.
"""

from __future__ import annotations

import re
from enum import IntEnum

from shm.errors import InvalidName

PREFIX = "/levelhead-"
MAX_INSTANCE_LENGTH = 64
_INSTANCE = re.compile(rf"[A-Za-z0-9_.]{{1,{MAX_INSTANCE_LENGTH}}}")


class Kind(IntEnum):
    """What a segment holds.  The number is part of its magic word."""

    LOAD = 1
    BOARD = 2
    TABLE = 3


def check_instance(instance: str) -> str:
    """Return instance, or raise InvalidName saying what is allowed."""
    if not _INSTANCE.fullmatch(instance):
        raise InvalidName(
            f"instance {instance!r}: allowed are 1 to {MAX_INSTANCE_LENGTH} letters, digits, "
            "'_' and '.'"
        )
    return instance


def segment_name(instance: str, kind: Kind) -> str:
    """Name of instance's segment of that kind, with the leading slash."""
    return f"{PREFIX}{check_instance(instance)}-{kind.name.lower()}"
