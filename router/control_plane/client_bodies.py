"""
The bodies of inference requests, as the OpenAPI document tells of them.

They document and check nothing: front doors read a request's bytes themselves, and the groups
say what is wrong with them.  Workers of ours understand these fields and ignore others;
what a backend understands beyond them, its own documentation says.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_MAX_LOGPROBS = 20
_MAX_STOPS = 16
_MAX_STOP_CHARACTERS = 256

_Stop = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]


class _Sampling(BaseModel):
    model_config = ConfigDict(extra="allow")

    n: int | None = Field(None, ge=1, le=128, description="Outputs wanted of each prompt")
    temperature: float | None = Field(None, ge=0, description="0: the most probable token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="-1 and 0 keep all tokens")
    min_p: float | None = Field(None, ge=0, le=1)
    stop: _Stop | list[_Stop] | None = Field(None, description=f"At most {_MAX_STOPS} texts")
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="End with a chunk of token counts")


class _Generation(_Sampling):
    model: str | None = None
    priority: int | None = Field(None, description="Higher ones leave the waiting room first")
    max_tokens: int | None = Field(None, ge=0)
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = Field(None, description="Text, or text parts")


class ChatRequest(_Generation):
    """Body of `/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=_MAX_LOGPROBS)


class CompletionRequest(_Generation):
    """Body of `/v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=_MAX_LOGPROBS)
    echo: bool | None = None


class GenerateSampling(_Sampling):
    """`sampling_params` of `/generate`."""

    max_new_tokens: int | None = Field(None, ge=0)
    sampling_seed: int | None = None


class GenerateRequest(BaseModel):
    """Body of SGLang's `/generate`: one prompt or several, as text or as token ids."""

    model_config = ConfigDict(extra="allow")

    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None
    sampling_params: GenerateSampling | list[GenerateSampling] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    return_text_in_logprobs: bool | None = None
    stream: bool | None = None
    rid: str | list[str] | None = None
    priority: int | None = None


class TokenizeRequest(BaseModel):
    """Body of `/tokenize`: a prompt or messages."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
