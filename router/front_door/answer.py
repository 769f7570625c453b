"""A group's answer as it passes to the client: timed, counted, and learnt from."""

from __future__ import annotations

import re
from collections.abc import Callable

from router.errors import RequestError
from router.front_door.exchange import LAST_CHUNK
from router.front_door.message import Request
from router.front_door.meters import Meters

_TAIL_BYTES = 1024  # where `usage` stands in an answer
_CHUNKED = b"\r\ntransfer-encoding: chunked"
_EVENT_STREAM = b"text/event-stream"
_EVENT = b"data: {"
_OUTPUT_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')


class Answer:
    """What is known of an answer from its head and the pieces so far."""

    __slots__ = (
        "_clock_s",
        "_is_chunked",
        "_keeps_tail",
        "_last_data_s",
        "_last_piece",
        "_meters",
        "_request",
        "_tail",
        "is_stream",
    )

    def __init__(
        self,
        request: Request,
        head: bytes,
        meters: Meters,
        clock_s: Callable[[], float],
        *,
        keeps_tail: bool,
    ) -> None:
        self.is_stream = _EVENT_STREAM in head
        self._is_chunked = self.is_stream and not request.is_http10 and _CHUNKED in head.lower()
        self._request = request
        self._meters = meters
        self._clock_s = clock_s
        self._keeps_tail = keeps_tail
        self._last_piece = b""
        self._last_data_s = 0.0
        self._tail = b""

    def note(self, data: bytes) -> int:
        """Take a piece that was passed on; return the number of events in it."""
        if self._keeps_tail:
            self._tail = data if len(data) >= _TAIL_BYTES else self._tail[-_TAIL_BYTES:] + data
        if not self.is_stream:
            return 0
        self._last_piece = data
        now_s = self._clock_s()
        if self._last_data_s:
            self._meters.inter_token_s.observe(now_s - self._last_data_s)
        else:
            self._meters.open_streams += 1
            self._meters.ttft_s.observe(now_s - self._request.began_s)
        self._last_data_s = now_s
        return data.count(_EVENT)

    def close(self) -> None:
        """No more of it will come."""
        if self._last_data_s:
            self._meters.open_streams -= 1

    def prompt_tokens(self) -> int | None:
        """What the group says that the prompt had; None if its answer does not say."""
        found = _PROMPT_TOKENS.search(self._tail)
        return int(found[1]) if found else None

    def output_tokens(self) -> int | None:
        """What the group says that it has produced; None if its answer does not say."""
        found = _OUTPUT_TOKENS.findall(self._tail)
        return int(found[-1]) if found else None

    def broken_tail(self, error: RequestError) -> bytes:
        """An error event, where what was passed on so far lets it be read as one."""
        end_of_event = b"\n\n\r\n" if self._is_chunked else b"\n\n"
        within = self._last_piece and not self._last_piece.endswith(end_of_event)
        if not self.is_stream or within:
            return b""
        event = b"data: %s\n\n" % error.body()
        return b"%x\r\n%s%s" % (len(event), event, LAST_CHUNK) if self._is_chunked else event
