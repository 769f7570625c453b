"""
Asks a child whether it answers, and kills one that does not: to be there is not to be alive.

    what is asked    how                                         not yet to answer
    rank             GET /health at the address on its card      while its card is not there
    front door       its meters, at their Unix socket            while nobody listens there
    control plane    GET /health, at its Unix socket             while nobody listens there

Every 2 s; an answer may take 5 s, and one that is missing twice in a row ends
the process, which the supervisor then starts again like any that ended.  One
miss may be a slow step, or the root's own sleep.  A rank may load its model for
as long as it takes; the others have a minute until they listen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from router.card import CardReader
from router.child import Child
from router.instance import Instance

_log = logging.getLogger("levelhead.serve")
PERIOD_S = 2.0
_ANSWER_LIMIT_S = 5.0
_MAX_MISSED = 1
_MAX_NOT_YET = 30
_GET_HEALTH = b"GET /health HTTP/1.1\r\nhost: levelhead\r\nconnection: close\r\n\r\n"
_WELL = b"HTTP/1.1 200 "
_METERS = b"{"

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer(Enum):
    """What became of one question."""

    GIVEN = "given"
    MISSED = "missed"
    NOT_YET = "not yet"
    """The process is still starting."""


@dataclass(frozen=True, slots=True)
class Question:
    """How a process is asked, in each of its lives."""

    ask: Callable[[int], Awaitable[Answer]]
    """Takes the pid; raises nothing."""
    max_not_yet: int | None
    """How often in a row the answer may be NOT_YET; None: as often as it likes."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the last answers of one process were."""

    pid: int
    num_missed: int = 0
    num_not_yet: int = 0

    def after(self, answer: Answer) -> Pulse:
        """The pulse after one more question."""
        match answer:
            case Answer.GIVEN:
                return Pulse(self.pid)
            case Answer.MISSED:
                return Pulse(self.pid, num_missed=self.num_missed + 1)
            case Answer.NOT_YET:
                return Pulse(self.pid, num_not_yet=self.num_not_yet + 1)

    def has_stopped(self, question: Question) -> bool:
        """Whether that was once too often."""
        late = question.max_not_yet is not None and self.num_not_yet > question.max_not_yet
        return late or self.num_missed > _MAX_MISSED


class Pinged(Protocol):
    """What is asked: a unit of the supervisor's."""

    name: str
    question: Question
    child: Child | None


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
        self._pulse = self._pulse.after(await unit.question.ask(child.pid))
        if self._pulse.has_stopped(unit.question) and child.returncode is None:
            _log.error("%s (pid %d) does not answer and is killed", unit.name, child.pid)
            child.kill()


def of_rank(cards: CardReader, dp_rank: int, limit_s: float = _ANSWER_LIMIT_S) -> Question:
    """Asks a leader.  One that has left its card listens, so a refusal is a miss."""

    async def ask(pid: int) -> Answer:
        card = cards.read(dp_rank)
        if card is None or card.pid != pid:
            return Answer.NOT_YET
        opening = asyncio.open_connection(card.host, card.port)
        answer = await _answer(opening, _GET_HEALTH, _WELL, limit_s)
        return Answer.GIVEN if answer is Answer.GIVEN else Answer.MISSED

    return Question(ask, None)


def of_front_door(instance: Instance, slot: int, limit_s: float = _ANSWER_LIMIT_S) -> Question:
    """Asks a front door for its meters: the public port might be another's answer."""
    return _of_socket(instance.meters_socket(slot), b"", _METERS, limit_s)


def of_control_plane(instance: Instance, limit_s: float = _ANSWER_LIMIT_S) -> Question:
    """Asks the control plane, which answers whatever the groups' health is."""
    return _of_socket(instance.control_socket, _GET_HEALTH, _WELL, limit_s)


def _of_socket(path: str, request: bytes, wanted: bytes, limit_s: float) -> Question:
    async def ask(_pid: int) -> Answer:
        return await _answer(asyncio.open_unix_connection(path), request, wanted, limit_s)

    return Question(ask, _MAX_NOT_YET)


async def _answer(
    opening: Awaitable[_Streams], request: bytes, wanted: bytes, limit_s: float
) -> Answer:
    """GIVEN if the whole answer comes in time and begins as wanted; NOT_YET if nobody listens."""
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await opening
            try:
                writer.write(request)
                told = await reader.read()
            finally:
                writer.close()
    except (FileNotFoundError, ConnectionRefusedError):
        return Answer.NOT_YET
    except (OSError, ValueError):  # a limit that is over is an OSError, a host that is none, not
        return Answer.MISSED
    return Answer.GIVEN if told.startswith(wanted) else Answer.MISSED
