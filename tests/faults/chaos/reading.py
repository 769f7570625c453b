"""What a client has read of an answer: status, text, events, and how the reading ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_DONE = "[DONE]"
_ERROR_KEYS = {"message", "type", "param", "code"}


class End(StrEnum):
    """How a client's reading ended."""

    WHOLE = "whole"
    """The message was complete, as HTTP counts it."""
    LEFT = "left"
    """The client left on purpose."""
    EOF = "eof"
    """The server closed the connection before the message was complete."""
    RESET = "reset"
    REFUSED = "refused"
    NOT_HTTP = "not http"
    SILENT = "silent"
    """Nothing came for longer than a client should wait."""


@dataclass(frozen=True)
class Reading:
    """An answer as far as it came."""

    end: End
    began_s: float
    ended_s: float
    status: int | None = None
    is_stream: bool = False
    text: str = ""
    finish_reason: str | None = None
    num_errors: int = 0
    """Error bodies or events in OpenAI's shape."""
    malformed: tuple[str, ...] = ()
    """Events or bodies that are none."""
    is_done: bool = False
    """[DONE] came, once, and nothing after it."""
    after_error: bool = False
    """A chunk came after an error event."""
    error: str = ""
    events: int = 0
    dp_rank: int | None = None
    """Group that answered, as the head says."""


def read_answer(
    body: bytes, *, is_stream: bool, status: int | None, end: End, began_s: float, ended_s: float
) -> Reading:
    """Take an answer's body apart; status None: no head came."""
    parsed = _Parsed()
    if status is not None:
        if is_stream and status == 200:
            parsed.stream(body, is_whole=end is End.WHOLE)
        elif end is End.WHOLE:
            parsed.take(body.decode(errors="replace"))
    return Reading(
        end,
        began_s,
        ended_s,
        status,
        is_stream,
        "".join(parsed.texts),
        parsed.finish_reason,
        len(parsed.errors),
        tuple(parsed.malformed),
        parsed.is_done and not parsed.after_done,
        parsed.after_error,
        parsed.errors[0] if parsed.errors else "",
        parsed.events,
    )


class _Parsed:
    """Collects what the pieces of an answer say."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.errors: list[str] = []
        self.malformed: list[str] = []
        self.finish_reason: str | None = None
        self.is_done = self.after_done = self.after_error = False
        self.events = 0

    def stream(self, body: bytes, *, is_whole: bool) -> None:
        """All events of a stream; one that was cut counts only if the stream claims to be whole."""
        events = body.decode(errors="replace").split("\n\n")
        rest = events.pop()
        if rest and is_whole:
            self.malformed.append(rest)
        for event in events:
            self.after_done = self.after_done or self.is_done
            data = event.removeprefix("data: ")
            if data == _DONE:
                self.is_done = True
            else:
                self.after_error = self.after_error or bool(self.errors)
                self.events += 1
                self.take(data)

    def take(self, data: str) -> None:
        """One JSON object: a chunk, a whole answer, or an error."""
        try:
            told = json.loads(data)
        except json.JSONDecodeError:
            self.malformed.append(data)
            return
        error = told.get("error") if isinstance(told, dict) else None
        if isinstance(error, dict) and set(error) == _ERROR_KEYS:
            self.errors.append(f"{error['code']}: {error['message']}")
        elif isinstance(told, dict) and told.get("choices"):
            self._choice(told["choices"][0])
        else:
            self.malformed.append(data)

    def _choice(self, choice: dict[str, Any]) -> None:
        said = choice.get("delta") or choice.get("message")
        self.texts.append(choice["text"] if said is None else said.get("content", ""))
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
