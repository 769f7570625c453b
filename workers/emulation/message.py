"""
What a rank tells the pacer: 29 bytes, little-endian.

    kind    dp_rank   kv_tokens   requests   prefill_tokens
    1       4         8           8          8

The answer to a share is one byte, RELEASE, when its round is over.  A rank that rests
gets none.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from workers.emulation.step_cost import StepShare

_LAYOUT = struct.Struct("<BIQQQ")
_REST, _SHARE = 0, 1
MESSAGE_BYTES = _LAYOUT.size
RELEASE = b"\x01"


class Message(NamedTuple):
    """share: None if the rank has nothing to compute."""

    dp_rank: int
    share: StepShare | None

    def pack(self) -> bytes:
        """MESSAGE_BYTES bytes."""
        if self.share is None:
            return _LAYOUT.pack(_REST, self.dp_rank, 0, 0, 0)
        return _LAYOUT.pack(_SHARE, self.dp_rank, *self.share)

    @classmethod
    def unpack(cls, data: bytes) -> Message:
        """The reverse."""
        kind, dp_rank, *share = _LAYOUT.unpack(data)
        return cls(dp_rank, StepShare(*share) if kind == _SHARE else None)
