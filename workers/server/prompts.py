"""
From what a client gives as a prompt to its tokens.

A prompt that cannot fit is refused before any time is spent on cutting it.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from workers.model.errors import ModelError
from workers.model.text import TextCodec
from workers.server.answers import Echo
from workers.server.bodies import plain_messages
from workers.server.errors import ApiError, from_error

_INLINE_CHARACTERS = 16_384


class Prompt(NamedTuple):
    """A prompt's tokens.  text: None if it came as tokens.  param: the field that held it."""

    token_ids: list[int]
    text: str | None
    param: str


class PromptReader:
    """Encodes prompts, and checks them."""

    def __init__(self, codec: TextCodec, max_model_len: int) -> None:
        self._codec = codec
        self._max_model_len = max_model_len

    async def read(self, given: str | list[int], param: str) -> Prompt:
        """Return a prompt that is text or tokens.  Raises ApiError."""
        if isinstance(given, str):
            self._check_length(given, param)
            token_ids = await self.encode(given, add_special_tokens=True)
            return Prompt(token_ids, given, param)
        self._check_ids(given, param)
        return Prompt(given, None, param)

    async def read_chat(self, messages: list[dict[str, Any]]) -> Prompt:
        """Return a conversation, rendered with the model's template.  Raises ApiError."""
        text = self.render(messages)
        self._check_length(text, "messages")
        token_ids = await self.encode(text, add_special_tokens=False)
        return Prompt(token_ids, text, "messages")

    async def echo(self, prompt: Prompt) -> Echo:
        """Return the prompt as a completion repeats it: a text as it came, tokens as bytes."""
        if prompt.text is None:
            raw = b"".join(map(self._codec.token_bytes, prompt.token_ids))
            return Echo(raw.decode(errors="replace"), prompt.token_ids)
        bare = await self.encode(prompt.text, add_special_tokens=False)
        return Echo(prompt.text, prompt.token_ids, max(0, len(prompt.token_ids) - len(bare)))

    def render(self, messages: list[dict[str, Any]], add_prompt: bool = True) -> str:
        """Return a conversation as text.  Raises ApiError."""
        try:
            return self._codec.render_chat(plain_messages(messages), add_prompt)
        except ModelError as error:
            raise from_error(error, param="messages") from error

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encode text; a long one in another thread, to let others in meanwhile."""
        if len(text) <= _INLINE_CHARACTERS:
            return self._codec.encode(text, add_special_tokens)
        return await asyncio.to_thread(self._codec.encode, text, add_special_tokens)

    def _check_length(self, text: str, param: str) -> None:
        limit, longest = self._max_model_len, self._codec.max_token_bytes
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

    def _check_ids(self, prompt_ids: list[int], param: str) -> None:
        wrong = [i for i in prompt_ids if not 0 <= i < self._codec.vocab_size]
        if wrong:
            limit = self._codec.vocab_size - 1
            raise ApiError(400, f"token id {wrong[0]} is not in [0, {limit}]", param=param)
