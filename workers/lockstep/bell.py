"""
What wakes ranks that wait together for something to do.

When no rank has anything to compute, all go to sleep at once, each waiting for its own
arrivals.  The first to have one rings, and the others join it in the next gather:

    pause 7:   rank 0 sleeps ────────────────────┐ woken ─► gather
               rank 1 sleeps ─ arrival ─► rings ─┘          gather

A bell is a key in the store where the ranks have met, one for each pause; all agree on its
number, because all agree on which rounds were idle.  The store tells a waiting client at
once when a key is set, so nobody polls, and ranks may be on several hosts.

A rank that misses a bell sleeps on until its heartbeat: it makes the others wait, and loses
nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from torch.distributed import DistStoreError

from workers.errors import RankLost
from workers.ranks.links import cause

logger = logging.getLogger("levelhead.workers.lockstep")

_LOOK_AGAIN = timedelta(seconds=1)


class Keys(Protocol):
    """What bells need of a store; torch.distributed.Store has it."""

    def set(self, key: str, value: str, /) -> None:
        """Make a key."""

    def wait(self, keys: list[str], timeout: timedelta, /) -> None:
        """Wait until they are there.  Raises DistStoreError if that takes too long."""

    def delete_key(self, key: str, /) -> bool:
        """Take a key away."""


class Bell:
    """
    One rank's.  pause and ring: for its step loop alone.

    store: to ring with.  own_store: another connection, for the thread that listens.
    sweeps: whether this rank takes old bells away.
    """

    def __init__(self, store: Keys, own_store: Keys, *, sweeps: bool) -> None:
        self._store = store
        self._own_store = own_store
        self._sweeps = sweeps
        self._num_pauses = 0
        self._changed = threading.Condition()
        self._awaited: int | None = None
        """The pause that this rank is in."""
        self._heard = False
        """Whether it was told of that pause's end."""

    def start(self, wake: Callable[[], None]) -> None:
        """From now on, call wake when the bell of a pause rings, from a thread of its own."""
        threading.Thread(target=self._listen, args=(wake,), name="bell", daemon=True).start()

    def pause(self) -> None:
        """All ranks have nothing to do from now on.  Raises RankLost."""
        if self._sweeps and self._num_pauses:
            with _store_of_a_rank():
                self._store.delete_key(_key(self._num_pauses - 1))  # all have left that one
        with self._changed:
            self._awaited, self._heard = self._num_pauses, False
            self._changed.notify()

    def ring(self) -> None:
        """This rank leaves the pause, if it is in one; others are to follow.  Raises RankLost."""
        with self._changed:
            pause, self._awaited = self._awaited, None
            self._changed.notify()
        if pause is None:
            return
        if not self._heard:
            with _store_of_a_rank():
                self._store.set(_key(pause), "")
        self._num_pauses += 1

    def _listen(self, wake: Callable[[], None]) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._awaited is not None)
                    pause = self._awaited
                assert pause is not None
                if self._rings(pause) and self._hear(pause):
                    wake()
                    self._wait_for_end(pause)
        except RuntimeError as error:  # a rank that is gone shows in the next gather
            logger.debug("no bell is heard any more, the store is gone: %s", error)

    def _rings(self, pause: int) -> bool:
        try:
            self._own_store.wait([_key(pause)], _LOOK_AGAIN)
        except DistStoreError:
            return False
        return True

    def _hear(self, pause: int) -> bool:
        with self._changed:
            self._heard = self._awaited == pause
            return self._heard

    def _wait_for_end(self, pause: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._awaited != pause)


@contextmanager
def _store_of_a_rank() -> Iterator[None]:
    """The store is rank 0's: where it is gone, so is that rank, and no step can be made."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(f"the store of rank 0 is gone: {cause(error)}") from error


def _key(pause: int) -> str:
    return f"bell-{pause}"
