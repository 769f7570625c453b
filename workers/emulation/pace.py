"""How an emulated step passes time: with other ranks (PacerClient) or alone (OwnPace)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from workers.emulation.barrier import Barrier
from workers.emulation.step_cost import StepShare
from workers.emulation.step_log import StepLog


class Pace(Protocol):
    """For the step loop, but for `stop`, which any thread may call."""

    def wait(self, share: StepShare) -> None:
        """Return when the step with this share is over, or at once if stopped."""

    def rest(self) -> None:
        """There is nothing to compute; said after `stop`, too."""

    def stop(self) -> None:
        """Let nobody wait any more."""


class OwnPace:
    """Nobody waits for anybody.  clock_s: time.monotonic or a fake."""

    def __init__(
        self, dp_rank: int, barrier: Barrier, log: StepLog, clock_s: Callable[[], float]
    ) -> None:
        self._dp_rank = dp_rank
        self._barrier = barrier
        self._log = log
        self._clock_s = clock_s
        self._stopped = threading.Event()

    def wait(self, share: StepShare) -> None:
        """Sleep until the step is over."""
        self._barrier.arrive(self._dp_rank, share, self._clock_s())
        due_s = self._barrier.due_s
        assert due_s is not None, "alone, a round begins at once"
        while (closed := self._barrier.close(self._clock_s())) is None:
            if self._stopped.wait(max(0.0, due_s - self._clock_s())):
                return
        self._log.write(closed.round)

    def rest(self) -> None:
        """The next step begins when there is one."""
        self._barrier.leave(self._dp_rank, self._clock_s())

    def stop(self) -> None:
        """Cut the step under way."""
        self._stopped.set()
