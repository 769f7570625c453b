"""
The shapes of answers: chat completions and completions, whole and in chunks.

An Answer belongs to one request and remembers what a later chunk depends on.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from workers.engine.request import FinishReason
from workers.model.sampling import TokenLogprobs
from workers.model.text import TextCodec

_LEAST_LOGPROB = -9999.0  # JSON has no infinity


class Head(NamedTuple):
    """What every chunk of an answer repeats."""

    id: str
    created: int
    model: str


class Usage(NamedTuple):
    """Token counts of an answer."""

    num_prompt: int
    num_cached: int
    num_outputs: int

    def body(self) -> dict[str, Any]:
        """The counts, as both APIs tell them."""
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_outputs,
            "total_tokens": self.num_prompt + self.num_outputs,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
        }


class Piece(NamedTuple):
    """Some of an answer.  logprobs: None unless they were asked for."""

    text: str
    logprobs: Sequence[TokenLogprobs] | None
    finish_reason: FinishReason | None


class Answer(Protocol):
    """One of the two shapes."""

    def opening(self) -> dict[str, Any] | None:
        """What a stream begins with, if anything."""
        ...

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of a stream."""
        ...

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """What a stream ends with, if the client wants token counts."""
        ...

    def whole(self, piece: Piece, usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""
        ...


class ChatAnswer:
    """Answer of /v1/chat/completions."""

    def __init__(self, head: Head, codec: TextCodec) -> None:
        self._codec = codec
        self._head = head._asdict()

    def opening(self) -> dict[str, Any]:
        """The chunk that says whose turn it is."""
        return self._chunk({"role": "assistant", "content": ""}, None, None)

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of the message."""
        return self._chunk({"content": piece.text}, self._logprobs(piece), piece.finish_reason)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The chunk with token counts and no choice."""
        head = self._head | {"object": "chat.completion.chunk"}
        return head | {"choices": [], "usage": usage.body()}

    def whole(self, piece: Piece, usage: Usage) -> dict[str, Any]:
        """The message in one piece."""
        message = {"role": "assistant", "content": piece.text}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(piece)}
        choice |= {"finish_reason": _reason(piece.finish_reason)}
        head = self._head | {"object": "chat.completion"}
        return head | {"choices": [choice], "usage": usage.body()}

    def _chunk(
        self, delta: dict[str, str], logprobs: object, reason: FinishReason | None
    ) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": _reason(reason),
        }
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if piece.logprobs is None:
            return None
        return {"content": [self._entry(token) for token in piece.logprobs]}

    def _entry(self, token: TokenLogprobs) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in token.top]
        return self._token(token.token_id, token.logprob) | {"top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = self._codec.token_bytes(token_id)
        text = self._codec.token_text(token_id)
        return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(raw)}


class CompletionAnswer:
    """
    Answer of /v1/completions.

    A token that is no text by itself, but part of a character, is written as OpenAI
    writes it, "bytes:\\xf0\\x9f", and its offset is that of the character.
    """

    def __init__(self, head: Head, codec: TextCodec) -> None:
        self._codec = codec
        self._head = head._asdict() | {"object": "text_completion"}
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def opening(self) -> None:
        """Nothing: a completion has no role."""

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of the text."""
        choice = {"index": 0, "text": piece.text, "logprobs": self._logprobs(piece)}
        choice |= {"finish_reason": _reason(piece.finish_reason)}
        return self._head | {"choices": [choice]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The chunk with token counts and no choice."""
        return self._head | {"choices": [], "usage": usage.body()}

    def whole(self, piece: Piece, usage: Usage) -> dict[str, Any]:
        """The text in one piece."""
        return self.chunk(piece) | {"usage": usage.body()}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if piece.logprobs is None:
            return None
        return {
            "tokens": [self._name(token.token_id) for token in piece.logprobs],
            "token_logprobs": [max(t.logprob, _LEAST_LOGPROB) for t in piece.logprobs],
            "top_logprobs": [self._top(token) for token in piece.logprobs],
            "text_offset": [self._pass(token.token_id) for token in piece.logprobs],
        }

    def _pass(self, token_id: int) -> int:
        """Return the token's offset, and go on to that of the next one."""
        offset = self._offset
        self._offset += len(self._characters.decode(self._codec.text_bytes(token_id)))
        return offset

    def _name(self, token_id: int) -> str:
        raw = self._codec.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _top(self, token: TokenLogprobs) -> dict[str, float]:
        pairs = (*token.top, (token.token_id, token.logprob))
        return {self._name(i): max(logprob, _LEAST_LOGPROB) for i, logprob in pairs}


def _reason(reason: FinishReason | None) -> str | None:
    return None if reason is None else reason.value
