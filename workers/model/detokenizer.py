"""
Turn a request's tokens into text, one token at a time.

What `push` returns is certain and is never taken back.  Two things are held
back until they are decided: the bytes of an unfinished character, and text
that may turn out to be the beginning of a stop string.  What is held never
grows past the longest stop string, so a token costs the same at any length of
output.

The stop string that counts is the one that is complete first; of those that
are complete at the same character, the longest.  That depends on the text
alone, not on how it was cut into tokens.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """What a detokenizer needs of a TextCodec."""

    def text_bytes(self, token_id: int) -> bytes:
        """Return the bytes that token_id adds to the output; none for special tokens."""


class Detokenizer:
    """The text of one request's output, cut before the first of its stop strings."""

    def __init__(self, codec: TokenBytes, stop: tuple[str, ...] = ()) -> None:
        self._codec = codec
        self._stop = stop
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was hit; nothing is returned from then on."""
        return self._stopped_by is not None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that was hit."""
        return self._stopped_by

    def push(self, token_id: int) -> str:
        """Add a token and return the text that has become certain, often none."""
        return self._add(self._codec.text_bytes(token_id), is_last=False)

    def finish(self) -> str:
        """Return what was held back; an unfinished character becomes U+FFFD."""
        return self._add(b"", is_last=True)

    def _add(self, data: bytes, is_last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + self._characters.decode(data, final=is_last)
        hit = _first_complete(text, self._stop)
        if hit is not None:
            start, self._stopped_by = hit
            self._held = ""
            return text[:start]
        certain = len(text) if is_last else len(text) - _undecided(text, self._stop)
        self._held = text[certain:]
        return text[:certain]


def _first_complete(text: str, stop: tuple[str, ...]) -> tuple[int, str] | None:
    """Return start and stop string of the occurrence that is complete first."""
    found = [(start + len(s), start, s) for s in stop if (start := text.find(s)) >= 0]
    if not found:
        return None
    _, start, hit = min(found)
    return start, hit


def _undecided(text: str, stop: tuple[str, ...]) -> int:
    """Return the length of the longest end of text that may begin a stop string."""
    longest = min(len(text), max(map(len, stop), default=0) - 1)
    for length in range(longest, 0, -1):
        end = text[len(text) - length :]
        if any(s.startswith(end) for s in stop):
            return length
    return 0
