"""
From a client's body to a request for the engine.

Everything that a client can get wrong is found here, before the engine sees
anything: the model's name, types, ranges, and a prompt that leaves no room.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from workers.engine.request import Request
from workers.model.detokenizer import Detokenizer
from workers.model.errors import ModelError
from workers.model.sampling_params import SamplingParams
from workers.model.text import TextCodec
from workers.server.answers import ChatAnswer, CompletionAnswer, Head
from workers.server.bodies import (
    ChatBody,
    CompletionBody,
    GenerationBody,
    TokenizeBody,
    parse,
    plain_messages,
)
from workers.server.errors import ApiError, from_error
from workers.server.generation import Job

_INLINE_CHARACTERS = 16_384


class ServedModel(NamedTuple):
    """What clients may know of the model, and which group serves it here."""

    name: str
    max_model_len: int
    dp_rank: int


class Intake:
    """
    Reads bodies.

    next_id: numbers requests.  seed_of: by that number, for requests without a seed.
    """

    def __init__(
        self,
        model: ServedModel,
        codec: TextCodec,
        next_id: Callable[[], int],
        seed_of: Callable[[int], int],
    ) -> None:
        self.model = model
        self._codec = codec
        self._next_id = next_id
        self._seed_of = seed_of

    async def chat(self, data: bytes) -> Job:
        """Body of /v1/chat/completions.  Raises ApiError."""
        body = parse(ChatBody, data)
        self._check(body)
        params = body.sampling(body.num_logprobs, body.token_limit)
        text = self._render(body.messages)
        self._check_length(text, "messages")
        prompt_ids = await self._encode(text, add_special_tokens=False)
        request = self._request(prompt_ids, params, "messages", body)
        return self._job(request, ChatAnswer(self._head("chatcmpl"), self._codec), body)

    async def completion(self, data: bytes) -> Job:
        """Body of /v1/completions.  Raises ApiError."""
        body = parse(CompletionBody, data)
        self._check(body)
        params = body.sampling(body.logprobs, body.max_tokens)
        prompt = body.single_prompt()
        if isinstance(prompt, str):
            self._check_length(prompt, "prompt")
            prompt = await self._encode(prompt, add_special_tokens=True)
        self._check_ids(prompt)
        request = self._request(prompt, params, "prompt", body)
        return self._job(request, CompletionAnswer(self._head("cmpl"), self._codec), body)

    async def tokenize(self, data: bytes) -> list[int]:
        """Body of /tokenize.  Raises ApiError."""
        body = parse(TokenizeBody, data)
        if body.messages is not None:
            text = self._render(body.messages, body.add_generation_prompt)
            return await self._encode(text, add_special_tokens=False)
        if body.prompt is None:
            raise ApiError(400, "one of prompt and messages is needed", param="prompt")
        return await self._encode(body.prompt, add_special_tokens=body.add_special_tokens)

    def _check(self, body: GenerationBody) -> None:
        if body.model is not None and body.model != self.model.name:
            raise ApiError(
                404,
                f"the model {body.model!r} does not exist; this server has {self.model.name!r}",
                param="model",
                code="model_not_found",
            )
        body.check_supported()

    def _check_length(self, text: str, param: str) -> None:
        """Raise ApiError for a text that cannot fit, before any time is spent on cutting it."""
        limit, longest = self.model.max_model_len, self._codec.max_token_bytes
        if longest is None or 4 * len(text) <= limit * longest:
            return
        num_bytes = len(text.encode("utf-8", errors="surrogatepass"))
        if num_bytes > limit * longest:
            raise ApiError(
                400,
                f"the maximum context length is {limit} tokens, of at most {longest} bytes each; "
                f"the prompt has {num_bytes} bytes",
                param=param,
                code="context_length_exceeded",
            )

    def _check_ids(self, prompt_ids: list[int]) -> None:
        wrong = [i for i in prompt_ids if not 0 <= i < self._codec.vocab_size]
        if wrong:
            limit = self._codec.vocab_size - 1
            raise ApiError(400, f"token id {wrong[0]} is not in [0, {limit}]", param="prompt")

    def _request(
        self, prompt_ids: list[int], params: SamplingParams, param: str, body: GenerationBody
    ) -> Request:
        request_id = self._next_id()
        ends = () if params.ignore_eos else self._codec.eos_token_ids
        return Request(
            request_id=request_id,
            prompt_ids=prompt_ids,
            params=params,
            seed=self._seed_of(request_id) if params.seed is None else params.seed,
            max_new_tokens=self._room(len(prompt_ids), params.max_tokens, param, body),
            stop_ids=frozenset((*ends, *params.stop_token_ids)),
            text=Detokenizer(self._codec, params.stop),
        )

    def _room(
        self, num_prompt: int, max_tokens: int | None, param: str, body: GenerationBody
    ) -> int:
        """Return how many tokens the output may have.  Raises ApiError if there is no room."""
        limit = self.model.max_model_len
        if not num_prompt:
            raise ApiError(400, f"{param} has no tokens", param=param)
        if num_prompt >= limit:
            raise ApiError(
                400,
                f"the maximum context length is {limit} tokens, the prompt has {num_prompt}",
                param=param,
                code="context_length_exceeded",
            )
        if max_tokens is not None and num_prompt + max_tokens > limit:
            raise ApiError(
                400,
                f"the maximum context length is {limit} tokens, the prompt has {num_prompt} and "
                f"{max_tokens} are asked for",
                param=body.param_of("max_tokens"),
                code="context_length_exceeded",
            )
        return limit - num_prompt if max_tokens is None else max_tokens

    def _render(self, messages: list[dict[str, Any]], add_prompt: bool = True) -> str:
        try:
            return self._codec.render_chat(plain_messages(messages), add_prompt)
        except ModelError as error:
            raise from_error(error, param="messages") from error

    async def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode text; a long one in another thread, to let others in meanwhile."""
        if len(text) <= _INLINE_CHARACTERS:
            return self._codec.encode(text, add_special_tokens)
        return await asyncio.to_thread(self._codec.encode, text, add_special_tokens)

    def _head(self, prefix: str) -> Head:
        return Head(f"{prefix}-{uuid4().hex}", int(time.time()), self.model.name)

    def _job(
        self, request: Request, answer: ChatAnswer | CompletionAnswer, body: GenerationBody
    ) -> Job:
        return Job(request, answer, bool(body.stream), body.wants_usage_chunk)
