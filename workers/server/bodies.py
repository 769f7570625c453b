"""
The bodies that clients send: OpenAI's fields, and those that vLLM adds.

Types are strict: a number in quotes, or true where a number belongs, is a
mistake of the client's that no default should hide.

Unknown fields are ignored, as vLLM does.  Fields that are known, change the
answer and are not implemented are refused unless they say "as usual": a client
that asks for a penalty must not get an answer without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.model.errors import InvalidSampling
from workers.model.sampling_params import SamplingParams
from workers.server.errors import ApiError, from_error, from_validation
from workers.server.sampling_fields import SamplingFields

Body = TypeVar("Body", bound=BaseModel)

_STRICT = ConfigDict(strict=True)
Neutral = Mapping[str, tuple[Any, ...]]
_NEUTRAL: Neutral = {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
}


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = _STRICT

    include_usage: bool | None = None


class GenerationBody(SamplingFields):
    """What both generating endpoints understand."""

    model: str | None = None
    priority: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_supported(self) -> None:
        """Raise ApiError if the body asks for something that is not implemented."""
        check_neutral(self.model_extra or {}, _NEUTRAL)
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream=true", param="stream_options")

    def sampling(self, logprobs: int | None, max_tokens: int | None) -> SamplingParams:
        """Return the sampling parameters.  Raises ApiError naming the field."""
        try:
            return self.as_params(self.seed, max_tokens, logprobs)
        except InvalidSampling as error:
            raise from_error(error, param=self.param_of(error.field)) from error

    def param_of(self, field: str) -> str:
        """Name of a sampling parameter in the body."""
        return field


class ChatBody(GenerationBody):
    """Body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def token_limit(self) -> int | None:
        """Output tokens at most; None for as many as the context has room for."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def num_logprobs(self) -> int | None:
        """Log-probabilities per token, besides its own.  Raises ApiError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs=true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def param_of(self, field: str) -> str:
        """Name of a sampling parameter in the body."""
        newer = {"logprobs": "top_logprobs"}
        if self.max_completion_tokens is not None:
            newer["max_tokens"] = "max_completion_tokens"
        return newer.get(field, field)


class CompletionBody(GenerationBody):
    """Body of /v1/completions.  Without max_tokens OpenAI gives 16."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or tokens."""
        return as_prompts(self.prompt)


class TokenizeBody(BaseModel):
    """Body of /tokenize: a prompt or messages."""

    model_config = _STRICT

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


class SettleBody(BaseModel):
    """Body of /settle."""

    model_config = _STRICT

    dp_balance_id: str
    front_door: str
    charge_tokens: int
    group_epoch: int | None = None


def parse(kind: type[Body], data: bytes) -> Body:
    """Return the body.  Raises ApiError."""
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise from_validation(error) from error


def check_neutral(extra: Mapping[str, Any], neutral: Neutral, where: str = "") -> None:
    """Raise ApiError unless fields that are known and not implemented say "as usual"."""
    for name, usual in neutral.items():
        value = extra.get(name)
        if not any(_is_same(value, each) for each in usual):
            raise ApiError(400, f"{where}{name}={value!r} is not supported", param=where + name)


def as_prompts(
    given: str | list[int] | list[str] | list[list[int]],
) -> list[str | list[int]]:
    """Return the prompts that a field holds: texts, or lists of token ids."""
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    return [ids] if len(ids) == len(given) else [i for i in given if not isinstance(i, int)]


def _is_same(value: object, usual: object) -> bool:
    """Whether they are equal; True is not 1, nor False 0."""
    return value == usual and isinstance(value, bool) == isinstance(usual, bool)


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with their content as one text each.  Raises ApiError."""
    return [_plain(message, index) for index, message in enumerate(messages)]


def _plain(message: dict[str, Any], index: int) -> dict[str, Any]:
    where = f"messages.{index}"
    if not isinstance(message.get("role"), str):
        raise ApiError(400, f"{where}.role must be a string", param="messages")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_text_of(part, where) for part in content)
    if not isinstance(content, str | None):
        raise ApiError(400, f"{where}.content must be a string or text parts", param="messages")
    return {**message, "content": content or ""}


def _text_of(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    raise ApiError(400, f"{where}.content: only parts of type text are supported", param="messages")
