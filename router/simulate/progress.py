"""A progress bar on a terminal; nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

_WIDTH = 30
_CLEAR = "\r\x1b[K"


class Progress:
    """Of many runs of known size, in requests."""

    def __init__(self, stream: TextIO, num_requests: int, clock_s: Callable[[], float]) -> None:
        self._stream = stream
        self._num_requests = max(1, num_requests)
        self._clock_s = clock_s
        self._is_shown = stream.isatty()
        self._num_before = self._num_now = 0
        self._label = ""
        self._drawn_s = float("-inf")

    def begin(self, label: str) -> None:
        """The next run begins."""
        self._num_before += self._num_now
        self._num_now, self._label = 0, label

    def show(self, num_ended: int) -> None:
        """So many requests of the run have ended."""
        self._num_now = num_ended
        if self._is_shown and (now_s := self._clock_s()) - self._drawn_s >= 0.1:
            self._drawn_s = now_s
            share = min(1.0, (self._num_before + num_ended) / self._num_requests)
            bar = ("#" * round(share * _WIDTH)).ljust(_WIDTH, ".")
            self._stream.write(f"{_CLEAR}[{bar}] {share:4.0%} {self._label}")
            self._stream.flush()

    def clear(self) -> None:
        """Leave no trace of it."""
        if self._is_shown:
            self._stream.write(_CLEAR)
            self._stream.flush()
