"""
Where a forward pass is computed: in the step loop's thread, or beside it.

A lane takes one pass at a time and computes passes in the order in which they
began.  Who begins one waits for it before the next, so what a pass reads and
writes is its own until then; torch lets other threads run while it computes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

T = TypeVar("T")


class Lane(Protocol):
    """What computes passes."""

    @property
    def is_concurrent(self) -> bool:
        """Whether whoever begins a pass gets on while it is computed."""
        ...

    def begin(self, compute: Callable[[], T]) -> Callable[[], T]:
        """Begin a pass; what comes back waits for its result, and raises what it raised."""
        ...


class SameThread:
    """Computes a pass when its result is waited for."""

    is_concurrent = False

    def begin(self, compute: Callable[[], T]) -> Callable[[], T]:
        """Leave it for later."""
        return compute


class ForwardThread:
    """
    Computes passes in one thread of its own.

    The thread is a daemon, because one that hangs in a pass must not keep the
    process; it starts with the first pass and ends with the last reference.
    """

    is_concurrent = True

    def __init__(self) -> None:
        self._passes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, compute: Callable[[], T]) -> Callable[[], T]:
        """Hand it to the thread."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=_compute_all, args=(self._passes,), name="forward", daemon=True
            )
            self._thread.start()
        future: Future[T] = Future()
        self._passes.put(lambda: _settle(future, compute))
        return future.result

    def __del__(self) -> None:
        self._passes.put(None)


def _compute_all(passes: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (compute := passes.get()) is not None:
        compute()
        del compute


def _settle(future: Future[T], compute: Callable[[], T]) -> None:
    try:
        future.set_result(compute())
    except BaseException as error:  # noqa: BLE001 - whoever waits for the pass raises it
        future.set_exception(error)
