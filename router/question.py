"""
How a child is asked whether it answers.

    what is asked    how                                         not yet to answer
    rank             GET /health at the address on its card      while its card is not there
    torchrun         each of its ranks, as above                 while one's card is not there
    follower         not at all: it has no server                -
    front door       its meters, at their Unix socket            while nobody listens there
    control plane    GET /health, at its Unix socket             while nobody listens there

A rank may load its model for as long as it takes; the others have a minute until
they listen.  A rank whose card says that it drains, or whose card is gone and that
answers no more, is leaving: it closes its connections, and has the drain's limit
and GRACE_S more for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from router.card import Card, CardReader
from router.instance import Instance
from router.pulse import Answer, Patience
from router.shortage import is_shortage
from shm.process import is_alive

PERIOD_S = 2.0
GRACE_S = 15.0  # more than a rank takes to stop after its drain: its MAX_STOP_S
_ANSWER_LIMIT_S = 5.0
_START_LIMIT_S = 60.0
_GET_HEALTH = b"GET /health HTTP/1.1\r\nhost: levelhead\r\nconnection: close\r\n\r\n"
_WELL = b"HTTP/1.1 200 "
_METERS = b"{"

_WORST_FIRST = (
    Answer.MISSED, Answer.LEAVING, Answer.UNKNOWN, Answer.NOT_YET, Answer.GIVEN,
)  # fmt: skip

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Question:
    """How a process is asked, in each of its lives, and how long an answer may be put off."""

    ask: Callable[[int], Awaitable[Answer]]
    """Takes the pid; raises nothing."""
    patience: Patience


def of_rank(
    cards: CardReader, dp_rank: int, drain_timeout_s: float, limit_s: float = _ANSWER_LIMIT_S
) -> Question:
    """Asks a leader.  One that has left its card listens, so a refusal is a miss."""
    leaving_s = drain_timeout_s + GRACE_S
    patience = Patience(max_leaving=_questions_in(leaving_s))
    return Question(_Rank(cards, dp_rank, limit_s).ask, patience)


def of_ranks(
    cards: CardReader,
    dp_ranks: Iterable[int],
    drain_timeout_s: float,
    limit_s: float = _ANSWER_LIMIT_S,
) -> Question:
    """Asks the leaders whose cards are there, for the launcher that has started them all."""
    ranks = [_Led(cards, dp_rank, limit_s) for dp_rank in dp_ranks]

    async def ask(pid: int) -> Answer:
        answers = await asyncio.gather(*(rank.ask(pid) for rank in ranks))
        return min(answers, key=_WORST_FIRST.index)

    leaving_s = drain_timeout_s + GRACE_S
    return Question(ask, Patience(max_leaving=_questions_in(leaving_s)))


def of_follower() -> Question:
    """That its process is there says all: if it hangs, those who wait for it say so."""

    async def ask(pid: int) -> Answer:
        return Answer.GIVEN

    return Question(ask, Patience())


def of_front_door(instance: Instance, slot: int, limit_s: float = _ANSWER_LIMIT_S) -> Question:
    """Asks a front door for its meters: the public port might be another's answer."""
    return _of_socket(instance.meters_socket(slot), b"", _METERS, limit_s)


def of_control_plane(instance: Instance, limit_s: float = _ANSWER_LIMIT_S) -> Question:
    """Asks the control plane, which answers whatever the groups' health is."""
    return _of_socket(instance.control_socket, _GET_HEALTH, _WELL, limit_s)


class _Rank:
    """Remembers the last card of the life that is asked."""

    def __init__(self, cards: CardReader, dp_rank: int, limit_s: float) -> None:
        self._cards = cards
        self._dp_rank = dp_rank
        self._limit_s = limit_s
        self._seen: Card | None = None

    async def ask(self, pid: int) -> Answer:
        card = self._cards.read(self._dp_rank)
        is_there = card is not None and card.pid == pid
        if is_there:
            self._seen = card
        seen = self._seen
        if seen is None or seen.pid != pid:
            return Answer.NOT_YET
        if seen.is_draining:
            return Answer.LEAVING
        opening = asyncio.open_connection(seen.host, seen.port)
        answer = await _answer(opening, _GET_HEALTH, _WELL, self._limit_s)
        if answer in (Answer.GIVEN, Answer.UNKNOWN):
            return answer
        return Answer.MISSED if is_there else Answer.LEAVING


class _Led:
    """Asks one of a launcher's ranks: its pid is on its card."""

    def __init__(self, cards: CardReader, dp_rank: int, limit_s: float) -> None:
        self._cards = cards
        self._dp_rank = dp_rank
        self._rank = _Rank(cards, dp_rank, limit_s)
        self._launcher_pid = self._pid = 0

    async def ask(self, launcher_pid: int) -> Answer:
        if launcher_pid != self._launcher_pid:
            self._launcher_pid, self._pid = launcher_pid, 0
        card = self._cards.read(self._dp_rank)
        if card is not None and is_alive(card.process):  # else it is an earlier launcher's
            self._pid = card.pid
        return await self._rank.ask(self._pid) if self._pid else Answer.NOT_YET


def _of_socket(path: str, request: bytes, wanted: bytes, limit_s: float) -> Question:
    async def ask(_pid: int) -> Answer:
        return await _answer(asyncio.open_unix_connection(path), request, wanted, limit_s)

    return Question(ask, Patience(max_not_yet=_questions_in(_START_LIMIT_S)))


def _questions_in(seconds: float) -> int:
    return round(seconds / PERIOD_S)


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
    except (OSError, ValueError) as error:  # a limit that is over is one, a host that is none
        return Answer.UNKNOWN if is_shortage(error) else Answer.MISSED
    return Answer.GIVEN if told.startswith(wanted) else Answer.MISSED
