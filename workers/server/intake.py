"""
From a client's body to requests for the engine.

Everything that a client can get wrong is found here, before the engine sees
anything: the model's name, types, ranges, and a prompt that leaves no room.

Each choice of an answer is a request of its own.  Copies of a prompt are forks:
the first computes it, the others wait until its pages are cached, and share them.
Each holds all of its tokens, because each reads them at every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

from workers.engine.request import Request
from workers.model.detokenizer import Detokenizer
from workers.model.sampling_params import SamplingParams
from workers.model.text import TextCodec
from workers.server.answers import ChatAnswer, CompletionAnswer, Echo, Head
from workers.server.bodies import ChatBody, CompletionBody, GenerationBody, TokenizeBody, parse
from workers.server.errors import ApiError
from workers.server.generation import Job
from workers.server.native_answer import NativeAnswer, NativeChoice
from workers.server.native_body import DEFAULT_NEW_TOKENS, Ask, GenerateBody
from workers.server.prompts import Prompt, PromptReader

MAX_CHOICES = 128


class ServedModel(NamedTuple):
    """
    What clients may know of the model, and of the group that serves it here.

    max_requests: that the group takes, running and waiting ones together.
    """

    name: str
    max_model_len: int
    dp_rank: int
    max_requests: int


class Wish(NamedTuple):
    """
    What is wanted of a prompt, besides its tokens.

    logprob_start: first prompt position whose log-probability is wanted.
    limit_param: the field that limits the output.
    max_new_tokens: if params say nothing; None for as many as there is room for.
    """

    params: SamplingParams
    num_copies: int
    priority: int
    limit_param: str
    logprob_start: int | None = None
    max_new_tokens: int | None = None


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
        self._prompts = PromptReader(codec, model.max_model_len)
        self._next_id = next_id
        self._seed_of = seed_of

    async def chat(self, data: bytes) -> Job:
        """Body of /v1/chat/completions.  Raises ApiError."""
        body = parse(ChatBody, data)
        self._check(body)
        wish = _wish(body, body.sampling(body.num_logprobs, body.token_limit))
        self._check_choices(1, wish.num_copies, "n")
        requests = self._requests(await self._prompts.read_chat(body.messages), wish)
        return _job(requests, ChatAnswer(self._head("chatcmpl"), self._codec), body)

    async def completion(self, data: bytes) -> Job:
        """Body of /v1/completions.  Raises ApiError."""
        body = parse(CompletionBody, data)
        self._check(body)
        wish = _wish(body, body.sampling(body.logprobs, body.max_tokens))
        if body.echo and body.logprobs is not None:
            wish = wish._replace(logprob_start=0)
        self._check_choices(len(body.prompts), wish.num_copies, "n")
        prompts = [await self._prompts.read(given, "prompt") for given in body.prompts]
        requests = [each for prompt in prompts for each in self._requests(prompt, wish)]
        echoes: list[Echo] = []
        for prompt in prompts if body.echo else ():
            echoes += [await self._prompts.echo(prompt)] * wish.num_copies
        return _job(requests, CompletionAnswer(self._head("cmpl"), self._codec, echoes), body)

    async def generate(self, data: bytes) -> Job:
        """Body of SGLang's /generate.  Raises ApiError."""
        body = parse(GenerateBody, data)
        asks = body.asks()
        num_copies = asks[0].num_copies
        self._check_choices(len(asks), num_copies, "sampling_params.n")
        choices = [choice for ask in asks for choice in await self._choices(ask, body)]
        answer = NativeAnswer(
            choices,
            self._codec,
            self.model.dp_rank,
            is_list=body.is_batch or num_copies > 1,
            has_texts=bool(body.return_text_in_logprobs),
        )
        requests = tuple(choice.request for choice in choices)
        return Job(requests, num_copies, answer, bool(body.stream), wants_usage_chunk=False)

    async def tokenize(self, data: bytes) -> list[int]:
        """Body of /tokenize.  Raises ApiError."""
        body = parse(TokenizeBody, data)
        if body.messages is not None:
            text = self._prompts.render(body.messages, body.add_generation_prompt)
            return await self._prompts.encode(text, add_special_tokens=False)
        if body.prompt is None:
            raise ApiError(400, "one of prompt and messages is needed", param="prompt")
        add_special_tokens = body.add_special_tokens
        return await self._prompts.encode(body.prompt, add_special_tokens=add_special_tokens)

    async def _choices(self, ask: Ask, body: GenerateBody) -> list[NativeChoice]:
        prompt = await self._prompts.read(ask.prompt, body.param)
        start, num_prompt = ask.logprob_start, len(prompt.token_ids)
        if start is not None and start > num_prompt:
            message = f"logprob_start_len is {start}; it must be in [-1, {num_prompt}]"
            raise ApiError(400, f"{message}, the prompt's tokens", param="logprob_start_len")
        wish = Wish(
            ask.params,
            ask.num_copies,
            body.priority or 0,
            "sampling_params.max_new_tokens",
            start,
            DEFAULT_NEW_TOKENS,
        )
        requests = self._requests(prompt, wish)
        name = ask.name or uuid4().hex
        names = [name] if len(requests) == 1 else [f"{name}-{i}" for i in range(len(requests))]
        return [NativeChoice(*pair) for pair in zip(requests, names, strict=True)]

    def _check(self, body: GenerationBody) -> None:
        if body.model is not None and body.model != self.model.name:
            raise ApiError(
                404,
                f"the model {body.model!r} does not exist; this server has {self.model.name!r}",
                param="model",
                code="model_not_found",
            )
        body.check_supported()

    def _check_choices(self, num_prompts: int, num_copies: int, param: str) -> None:
        """
        Raise ApiError unless an answer may have that many choices.

        All are taken in by the same step.  So more than the group takes when it
        is empty would be refused as too many whenever they come.
        """
        asked = f"{param} is {num_copies}, for {num_prompts} prompts"
        if not 1 <= num_copies * num_prompts <= MAX_CHOICES:
            message = f"{asked}; there must be 1 to {MAX_CHOICES} choices in all"
            raise ApiError(400, message, param=param)
        if num_copies * num_prompts > self.model.max_requests:
            message = f"{asked}; each choice is a request, and a group takes at most "
            message += f"{self.model.max_requests}, running and waiting ones together"
            raise ApiError(400, message, param=param)

    def _requests(self, prompt: Prompt, wish: Wish) -> list[Request]:
        max_new_tokens = self._max_new_tokens(prompt, wish)
        return [self._request(prompt, wish, max_new_tokens, i) for i in range(wish.num_copies)]

    def _request(self, prompt: Prompt, wish: Wish, max_new_tokens: int, copy: int) -> Request:
        """Return one copy.  With a seed of the client's, each copy has one of its own."""
        params = wish.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + copy)
        request_id = self._next_id()
        ends = () if params.ignore_eos else self._codec.eos_token_ids
        return Request(
            request_id=request_id,
            prompt_ids=prompt.token_ids,
            params=params,
            seed=self._seed_of(request_id) if params.seed is None else params.seed,
            max_new_tokens=max_new_tokens,
            stop_ids=frozenset((*ends, *params.stop_token_ids)),
            text=Detokenizer(self._codec, params.stop),
            logprob_start=wish.logprob_start,
            priority=wish.priority,
        )

    def _max_new_tokens(self, prompt: Prompt, wish: Wish) -> int:
        """Return how many tokens the output may have.  Raises ApiError if there is no room."""
        limit, num_prompt = self.model.max_model_len, len(prompt.token_ids)
        asked = wish.params.max_tokens
        if not num_prompt:
            raise ApiError(400, f"{prompt.param} has no tokens", param=prompt.param)
        if num_prompt >= limit:
            raise ApiError(
                400,
                f"the maximum context length is {limit} tokens, the prompt has {num_prompt}",
                param=prompt.param,
                code="context_length_exceeded",
            )
        if asked is not None and num_prompt + asked > limit:
            raise ApiError(
                400,
                f"the maximum context length is {limit} tokens, the prompt has {num_prompt} and "
                f"{asked} are asked for",
                param=wish.limit_param,
                code="context_length_exceeded",
            )
        room = limit - num_prompt
        usual = room if wish.max_new_tokens is None else min(room, wish.max_new_tokens)
        return usual if asked is None else asked

    def _head(self, prefix: str) -> Head:
        return Head(f"{prefix}-{uuid4().hex}", int(time.time()), self.model.name)


def _wish(body: GenerationBody, params: SamplingParams) -> Wish:
    return Wish(params, body.num_copies, body.priority or 0, body.param_of("max_tokens"))


def _job(
    requests: Sequence[Request], answer: ChatAnswer | CompletionAnswer, body: GenerationBody
) -> Job:
    stream, usage = bool(body.stream), body.wants_usage_chunk
    return Job(tuple(requests), body.num_copies, answer, stream, usage)
