"""
The shapes of OpenAI's answers: chat completions and completions, whole and in chunks.

An Answer belongs to one job and remembers what a later chunk depends on.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from workers.engine.request import FinishReason
from workers.model.sampling import TokenLogprobs
from workers.model.text import TextCodec

LEAST_LOGPROB = -9999.0  # JSON has no infinity


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
    """
    Some of one choice of an answer.

    logprobs: None unless they were asked for.
    prompt_logprobs: in the choice's first piece, of the prompt positions asked for.
    """

    text: str
    logprobs: Sequence[TokenLogprobs] | None
    finish_reason: FinishReason | None
    choice: int = 0
    token_ids: Sequence[int] = ()
    prompt_logprobs: Sequence[TokenLogprobs] = ()
    num_cached: int = 0


class Answer(Protocol):
    """One of the shapes."""

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """What a stream begins with, if anything."""

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of a stream."""

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """What a stream ends with, if the client wants token counts."""

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> Any:
        """The answer in one go, each choice in one piece."""


class ChatAnswer:
    """Answer of /v1/chat/completions."""

    def __init__(self, head: Head, codec: TextCodec) -> None:
        self._codec = codec
        self._head = head._asdict()

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """Return chunks that say whose turn it is."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(index, delta, None, None) for index in range(num_choices)]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of a message."""
        delta = {"content": piece.text}
        return self._chunk(piece.choice, delta, self._logprobs(piece), piece.finish_reason)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The chunk with token counts and no choice."""
        head = self._head | {"object": "chat.completion.chunk"}
        return head | {"choices": [], "usage": usage.body()}

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The messages in one go."""
        head = self._head | {"object": "chat.completion"}
        return head | {"choices": [self._choice(p) for p in pieces], "usage": usage.body()}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "message": {"role": "assistant", "content": piece.text},
            "logprobs": self._logprobs(piece),
            "finish_reason": _reason(piece.finish_reason),
        }

    def _chunk(
        self, index: int, delta: dict[str, str], logprobs: object, reason: FinishReason | None
    ) -> dict[str, Any]:
        choice = {
            "index": index,
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
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(raw)}


class Echo(NamedTuple):
    """
    A prompt that is repeated before its completion.

    num_added: leading tokens that the tokenizer put there, and that no text stands for.
    """

    text: str
    token_ids: Sequence[int]
    num_added: int = 0


class _Offsets:
    """Where each token's text begins, in characters."""

    def __init__(self, start: int = 0) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._end = start

    def step(self, raw: bytes) -> int:
        """Return the offset of a token of those bytes, and go on to that of the next one."""
        offset = self._end
        self._end += len(self._characters.decode(raw))
        return offset


class CompletionAnswer:
    """
    Answer of /v1/completions.  echoes: for each choice, or none at all.

    A token that is no text by itself, but part of a character, is written as OpenAI
    writes it, "bytes:\\xf0\\x9f", and its offset is that of the character.
    """

    def __init__(self, head: Head, codec: TextCodec, echoes: Sequence[Echo] = ()) -> None:
        self._codec = codec
        self._head = head._asdict() | {"object": "text_completion"}
        self._echoes = dict(enumerate(echoes))
        self._offsets: dict[int, _Offsets] = {}

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """Nothing: a completion has no role."""
        return []

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of a text."""
        return self._head | {"choices": [self._choice(piece)]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The chunk with token counts and no choice."""
        return self._head | {"choices": [], "usage": usage.body()}

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The texts in one go."""
        choices = [self._choice(piece) for piece in pieces]
        return self._head | {"choices": choices, "usage": usage.body()}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        echo = self._echoes.pop(piece.choice, None)
        return {
            "index": piece.choice,
            "text": piece.text if echo is None else echo.text + piece.text,
            "logprobs": None if piece.logprobs is None else self._logprobs(piece, echo),
            "finish_reason": _reason(piece.finish_reason),
        }

    def _logprobs(self, piece: Piece, echo: Echo | None) -> dict[str, Any]:
        tokens: list[TokenLogprobs | None] = list(piece.logprobs or ())
        ids = [token.token_id for token in piece.logprobs or ()]
        offsets: list[int] = []
        if echo is not None:
            tokens = [None, *piece.prompt_logprobs, *tokens]
            offsets = self._echo_offsets(echo)
            self._offsets[piece.choice] = _Offsets(len(echo.text))
            ids = [*echo.token_ids, *ids]
        after = self._offsets.setdefault(piece.choice, _Offsets())
        offsets += [after.step(self._codec.text_bytes(i)) for i in ids[len(offsets) :]]
        return {
            "tokens": [self._name(i) for i in ids],
            "token_logprobs": [t and max(t.logprob, LEAST_LOGPROB) for t in tokens],
            "top_logprobs": [t and self._top(t) for t in tokens],
            "text_offset": offsets,
        }

    def _echo_offsets(self, echo: Echo) -> list[int]:
        offsets, added = _Offsets(), [0] * echo.num_added
        rest: Iterable[int] = echo.token_ids[echo.num_added :]
        return added + [offsets.step(self._codec.token_bytes(i)) for i in rest]

    def _name(self, token_id: int) -> str:
        raw = self._codec.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _top(self, token: TokenLogprobs) -> dict[str, float]:
        pairs = (*token.top, (token.token_id, token.logprob))
        return {self._name(i): max(logprob, LEAST_LOGPROB) for i, logprob in pairs}


def _reason(reason: FinishReason | None) -> str | None:
    return None if reason is None else reason.value
