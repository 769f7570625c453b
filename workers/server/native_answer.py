"""
The shape of SGLang's native answer, whole and in chunks.

A choice is an object with `text`, `output_ids` and `meta_info`; several are a list.
In a stream each chunk repeats its choice from the beginning, longer than before,
and says which it is if there are several.  A log-probability is [value, token id,
text or null], and the first token of a prompt has null for a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from workers.engine.request import FinishReason, Request
from workers.model.detokenizer import Detokenizer
from workers.model.sampling import TokenLogprobs
from workers.model.text import TextCodec
from workers.server.answers import LEAST_LOGPROB, Piece, Usage

_Entry = list[float | int | str | None]


class NativeChoice(NamedTuple):
    """A request as its answer tells of it.  name: `id` in meta_info."""

    request: Request
    name: str


class _Told:
    """What was told of one choice so far."""

    def __init__(self) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.logprobs: list[TokenLogprobs] = []

    def add(self, piece: Piece) -> None:
        """Go on by one piece."""
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.prompt_logprobs += piece.prompt_logprobs
        self.logprobs += piece.logprobs or ()


class NativeAnswer:
    """
    Answer of /generate.

    is_list: whether it is a list even of one.  has_texts: whether log-probabilities
    come with their tokens' texts.  dp_rank: of the group that answers.
    """

    def __init__(
        self,
        choices: Sequence[NativeChoice],
        codec: TextCodec,
        dp_rank: int,
        *,
        is_list: bool,
        has_texts: bool,
    ) -> None:
        self._choices = choices
        self._codec = codec
        self._dp_rank = dp_rank
        self._is_list = is_list
        self._has_texts = has_texts
        self._told = [_Told() for _ in choices]

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One choice up to here."""
        body = self._body(piece)
        return body | {"index": piece.choice} if self._is_list else body

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Token counts of all choices; the API has no such chunk, each choice tells its own."""
        return {"usage": usage.body()}

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> Any:
        """All choices, or the one."""
        bodies = [self._body(piece) for piece in pieces]
        return bodies if self._is_list else bodies[0]

    def _body(self, piece: Piece) -> dict[str, Any]:
        told = self._told[piece.choice]
        told.add(piece)
        return {
            "text": told.text,
            "output_ids": list(told.token_ids),
            "meta_info": self._meta_info(piece, told),
        }

    def _meta_info(self, piece: Piece, told: _Told) -> dict[str, Any]:
        request, name = self._choices[piece.choice]
        body: dict[str, Any] = {
            "id": name,
            "finish_reason": _reason(request, piece.finish_reason, told),
            "prompt_tokens": request.num_prompt,
            "completion_tokens": len(told.token_ids),
            "cached_tokens": piece.num_cached,
            "computed_tokens": request.num_prompt - piece.num_cached,
            "dp_rank": self._dp_rank,
        }
        if request.params.logprobs is None:
            return body
        body["input_token_logprobs"] = self._first(request) + self._entries(told.prompt_logprobs)
        body["output_token_logprobs"] = self._entries(told.logprobs)
        if request.params.logprobs:
            first = [None for _ in self._first(request)]
            body["input_top_logprobs"] = first + self._tops(told.prompt_logprobs)
            body["output_top_logprobs"] = self._tops(told.logprobs)
        return body

    def _first(self, request: Request) -> list[_Entry]:
        """The entry of the prompt's first token, which nothing comes before, if it is wanted."""
        is_wanted = request.logprob_start == 0
        return [[None, *self._token(request.prompt_ids[0])]] if is_wanted else []

    def _entries(self, tokens: Sequence[TokenLogprobs]) -> list[_Entry]:
        return [self._entry(token.logprob, token.token_id) for token in tokens]

    def _tops(self, tokens: Sequence[TokenLogprobs]) -> list[list[_Entry] | None]:
        return [[self._entry(logprob, i) for i, logprob in token.top] for token in tokens]

    def _entry(self, logprob: float, token_id: int) -> _Entry:
        return [max(logprob, LEAST_LOGPROB), *self._token(token_id)]

    def _token(self, token_id: int) -> tuple[int, str | None]:
        return token_id, self._codec.token_text(token_id) if self._has_texts else None


def _reason(request: Request, reason: FinishReason | None, told: _Told) -> dict[str, Any] | None:
    """
    Return why a choice ended.

    Its last output is out when this asks what stopped its text, so that no longer changes.
    """
    if reason is None:
        return None
    if reason is FinishReason.LENGTH:
        return {"type": "length", "length": len(told.token_ids)}
    text = request.text
    by_text = text.stopped_by if isinstance(text, Detokenizer) else None
    return {"type": "stop", "matched": told.token_ids[-1] if by_text is None else by_text}
