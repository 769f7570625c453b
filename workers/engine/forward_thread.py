"""
Where a forward pass is computed: in the step loop's thread, or beside it.

A lane takes one pass at a time and computes passes in the order in which they
began.  Who begins one waits for it before the next, so what a pass reads and
writes is its own until then; torch lets other threads run while it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Lane(Protocol):
    """What computes passes."""

    @property
    def is_concurrent(self) -> bool:
        """Whether whoever begins a pass gets on while it is computed."""

    def begin(self, compute: Callable[[], T]) -> Callable[[], T]:
        """Begin a pass; what comes back waits for its result, and raises what it raised."""


class SameThread:
    """Computes a pass when its result is waited for."""

    is_concurrent = False

    def begin(self, compute: Callable[[], T]) -> Callable[[], T]:
        """Leave it for later."""
        return compute


class ForwardThread:
    """
    Computes passes in one thread of its own.

    It starts with the first pass and ends with the last reference.  One that hangs
    in a pass does not keep the process, which leaves without waiting for its threads.
    """

    is_concurrent = True

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "forward")

    def begin(self, compute: Callable[[], T]) -> Callable[[], T]:
        """Hand it to the thread."""
        return self._thread.submit(compute).result
