"""A client that notes everything it sees, and may leave at any phase."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

import httptools

from tests.faults.chaos.reading import End, Reading, read_answer

PATIENCE_S = 60.0
_PIECE_BYTES = 1 << 16
_EVENT = b"data: {"
_DONE = b"data: [DONE]"
_RANK = b"x-levelhead-dp-rank"


class Leaving(StrEnum):
    """The phase at which a client leaves."""

    BEFORE_BODY = "before body"
    AFTER_BODY = "after body"
    AFTER_HEAD = "after head"
    MID_ANSWER = "mid answer"
    AT_END = "at end"


class Ask(NamedTuple):
    """One request.  leaving: None stays to the end; by_reset: leaves with RST, not FIN."""

    case: int
    path: str
    body: bytes
    is_stream: bool
    leaving: Leaving | None = None
    after_events: int = 1
    by_reset: bool = False


class _Answer:
    """Target of the parser."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.dp_rank: int | None = None
        self.has_head = self.is_whole = self.keeps_alive = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _RANK:
            self.dp_rank = int(value)

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_whole = True
        self.keeps_alive = self.parser.should_keep_alive()  # the parser forgets it after this


class Connection:
    """A client's connection to the instance; carries one request after the other."""

    def __init__(self, host: str, port: int, clock_s: Callable[[], float]) -> None:
        self._host, self._port, self._clock_s = host, port, clock_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, ask: Ask, patience_s: float = PATIENCE_S) -> Reading:
        """Send a request and read its answer; never raises what a network can do."""
        began_s = self._clock_s()
        answer = _Answer()
        try:
            end = await self._exchange(ask, answer, patience_s)
        except TimeoutError:
            end = End.SILENT
        except ConnectionRefusedError:
            end = End.REFUSED
        except OSError:
            end = End.RESET
        except httptools.HttpParserError:
            end = End.NOT_HTTP
        if end is not End.WHOLE or not answer.keeps_alive:
            self.close(by_reset=ask.by_reset)
        status = answer.parser.get_status_code() if answer.has_head else None
        reading = read_answer(
            bytes(answer.body),
            is_stream=ask.is_stream,
            status=status,
            end=end,
            began_s=began_s,
            ended_s=self._clock_s(),
        )
        return replace(reading, dp_rank=answer.dp_rank)

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent on it."""
        return self._writer is not None and self._reader is not None and not self._reader.at_eof()

    def close(self, *, by_reset: bool = False) -> None:
        """Leave."""
        if self._writer is not None:
            if by_reset:
                self._writer.transport.abort()
            else:
                self._writer.close()
        self._writer = None

    async def _exchange(self, ask: Ask, answer: _Answer, patience_s: float) -> End:
        if self._writer is None:
            async with asyncio.timeout(patience_s):
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        self._writer.write(_head(ask))
        if ask.leaving is Leaving.BEFORE_BODY:
            return End.LEFT
        self._writer.write(ask.body)
        if ask.leaving is Leaving.AFTER_BODY:
            await asyncio.sleep(0.001 * ask.after_events)
            return End.LEFT
        while not answer.is_whole:
            async with asyncio.timeout(patience_s):
                piece = await self._reader.read(_PIECE_BYTES)
            if not piece:
                return End.EOF
            answer.parser.feed_data(piece)
            if _is_time_to_leave(ask, answer):
                return End.LEFT
        return End.WHOLE


def _is_time_to_leave(ask: Ask, answer: _Answer) -> bool:
    if ask.leaving is Leaving.AFTER_HEAD:
        return answer.has_head
    if ask.leaving is Leaving.MID_ANSWER:
        return answer.body.count(_EVENT) >= ask.after_events
    return ask.leaving is Leaving.AT_END and (answer.is_whole or _DONE in answer.body)


def _head(ask: Ask) -> bytes:
    return (
        b"POST %s HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % (ask.path.encode(), len(ask.body))
    )
