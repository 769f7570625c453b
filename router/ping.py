"""
Asks a child whether it answers, and kills one that does not: to be there is not to be alive.

Every 2 s; an answer may take 5 s, and one that is missing twice in a row ends
the process, which the supervisor then starts again like any that ended.  One
miss may be a slow step, or the root's own sleep.  How each is asked stands in
router.question, what the answers add up to in router.pulse.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from router.child import Child
from router.pulse import Answer, Pulse
from router.question import Question

_log = logging.getLogger("levelhead.serve")


class Pinged(Protocol):
    """What is asked: a unit of the supervisor's."""

    name: str
    question: Question
    child: Child | None

    def answered(self) -> None:
        """Its present child has given a good answer."""


class Ping:
    """Asks one unit's process, life after life."""

    def __init__(self, unit: Pinged) -> None:
        self._unit = unit
        self._pulse = Pulse(0)

    async def keep(self, period_s: float) -> None:
        """Ask for ever."""
        while True:
            await asyncio.sleep(period_s)
            await self.once()

    async def once(self) -> None:
        """Ask, and kill the process if it has not answered once too often."""
        unit, child = self._unit, self._unit.child
        if child is None or child.returncode is not None:
            return
        if child.pid != self._pulse.pid:
            self._pulse = Pulse(child.pid)
        answer = await unit.question.ask(child.pid)
        if child.returncode is not None or unit.child is not child:
            return
        if answer is Answer.GIVEN:
            unit.answered()
        self._pulse = self._pulse.after(answer)
        if self._pulse.has_stopped(unit.question.patience):
            _log.error("%s (pid %d) does not answer and is killed", unit.name, child.pid)
            child.kill()
