"""A unit: what one process of an instance is for, through all its lives."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from router.child import Child, describe_end
from router.errors import StartError
from router.pauses import Life
from router.pulse import Answer
from router.question import GRACE_S, Question


@dataclass
class Unit:
    """Owns the child that runs now, if one does."""

    name: str
    spawn: Callable[[], Awaitable[Child]]
    question: Question
    """How its process is asked whether it answers."""
    clock_s: Callable[[], float]
    grace_s: float = GRACE_S
    between_lives: Callable[[], None] = lambda: None
    """Called when a life has ended, before the next begins."""
    child: Child | None = None
    _ready_s: float | None = field(default=None, init=False)
    """When its present child first answered."""

    @property
    def units(self) -> Sequence[Unit]:
        """Itself: the only process of its kind."""
        return (self,)

    @property
    def starts(self) -> str:
        """Who is started again, and the verb for it."""
        return "it is"

    @property
    def ready_s(self) -> float | None:
        """When its present child first answered; None if it has not."""
        return self._ready_s

    async def start(self) -> None:
        """Begin a life.  Raises StartError if no process is to be had."""
        self._ready_s = None
        try:
            self.child = await self.spawn()
        except (OSError, subprocess.SubprocessError) as error:
            raise StartError(f"{self.name} could not be started: {error}") from error

    def answered(self) -> None:
        """Its present child has given a good answer, or is ready by another sign."""
        if self._ready_s is None:
            self._ready_s = self.clock_s()

    async def life(self) -> Life:
        """Wait until its process ends; return how its life went."""
        returncode = await self.end()
        steady_s = None if self._ready_s is None else self.clock_s() - self._ready_s
        return Life(returncode, steady_s)

    def last_end(self) -> str:
        """Which process ended, and how."""
        assert self.child is not None
        assert self.child.returncode is not None
        return f"{self.name} (pid {self.child.pid}) {describe_end(self.child.returncode)}"

    async def end(self) -> int:
        """Wait until its process ends; return the status."""
        assert self.child is not None
        return await self.child.wait()

    async def answers(self) -> bool:
        """Whether its process answers now."""
        assert self.child is not None
        return await self.question.ask(self.child.pid) is Answer.GIVEN

    async def ended_within(self, grace_s: float) -> None:
        """Wait for its process's end, if there is one, and end it if it has not after grace_s."""
        if self.child is not None:
            await self.child.ended_within(grace_s)

    async def stop(self) -> None:
        """End its process, if there is one."""
        if self.child is not None:
            await self.child.stop(self.grace_s)
        self.child = None
