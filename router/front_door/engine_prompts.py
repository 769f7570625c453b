"""
Prompts to backends, counted exactly and named in pages, where that can be done.

    counted   /v1/chat/completions: conversations of text; /v1/completions: text and token ids
    not       tools, images, tool calls, reasoning that goes in, roles that engines change into
              others, a template of the request's own, truncation, several text parts in
              one message (engines join them differently), a template that may read more fields
              than are known here

What is not counted is estimated, and none of its pages are named: a name that is not the
engine's finds nothing, but a count that pretends to be exact is a lie.  A prompt that the
engine keeps apart (another model than the first that it lists, a cache salt) is counted and
not named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.front_door.engine_tokenizer import EngineTokenizer
from router.front_door.prompt import CHAT_PATH, PromptCount, digests_of
from router.instance import Instance

_TEXT_PATH = b"/v1/completions"
_ROLES = frozenset(("system", "user", "assistant"))
_MESSAGE_FIELDS = frozenset(("role", "content", "name"))
# Of any value but null, false or empty, they change the prompt in ways that engines differ in.
_CHANGING = (
    "tools", "functions", "chat_template", "documents", "truncate_prompt_tokens", "prompt_embeds",
    "mm_processor_kwargs", "suffix", "lora_path", "input_ids", "image_data", "continue_final_field",
)  # fmt: skip
# They change it if the template reads them.
_READ = ("reasoning_effort", "response_format", "enable_thinking", "thinking", "reasoning")
_APART = ("cache_salt", "extra_key")


class EnginePrompts:
    """Counts with one tokenizer."""

    def __init__(self, tokenizer: EngineTokenizer) -> None:
        self._tokenizer = tokenizer

    def count(
        self, fields: dict[str, Any], path: bytes, num_copies: int, page_size: int
    ) -> PromptCount | None:
        """
        Prompt tokens of a body, and its pages if page_size is over 0; None: not exactly.

        Safe to call in another thread.
        """
        if any(fields.get(name) for name in _CHANGING):
            return None
        try:
            prompts = self._prompts(fields, path)
        except Exception:  # noqa: BLE001  a template is foreign code, run on foreign data
            return None
        if prompts is None:
            return None
        num_tokens = sum(map(len, prompts)) * num_copies
        num_outputs = num_copies * len(prompts)
        is_apart = any(fields.get(name) is not None for name in _APART)
        if not page_size or len(prompts) != 1 or is_apart:
            return PromptCount(num_tokens, "exact", num_outputs=num_outputs)
        digests = digests_of(prompts[0], page_size)
        return PromptCount(num_tokens, "exact", digests, page_size, num_outputs)

    def _prompts(self, fields: Mapping[str, Any], path: bytes) -> list[list[int]] | None:
        if path == CHAT_PATH:
            tokens = self._chat(fields)
            return None if tokens is None else [tokens]
        return self._texts(fields) if path == _TEXT_PATH else None

    def _texts(self, fields: Mapping[str, Any]) -> list[list[int]] | None:
        prompt, special = fields.get("prompt"), fields.get("add_special_tokens", True)
        if not prompt or type(special) is not bool:
            return None
        each_of = prompt if isinstance(prompt, list) and not _are_ids(prompt) else [prompt]
        found = []
        for each in each_of:
            if isinstance(each, str):
                found.append(self._tokenizer.text_tokens(each, special=special))
            elif _are_ids(each):
                found.append(each)
            else:
                return None
        return found

    def _chat(self, fields: Mapping[str, Any]) -> list[int] | None:
        told = fields.get("messages")
        variables = self._variables(fields)
        special = fields.get("add_special_tokens") or False
        template = self._tokenizer.template_text
        if not (isinstance(told, list) and told and template) or variables is None:
            return None
        if any(fields.get(name) is not None and name in template for name in _READ):
            return None
        messages = [_plain(message) for message in told]
        plain = [message for message in messages if message is not None]
        if len(plain) != len(messages) or type(special) is not bool:
            return None
        is_continued = fields.get("continue_final_message") is True
        text = self._tokenizer.chat_text(plain, variables, is_continued=is_continued)
        return self._tokenizer.text_tokens(text, special=special)

    def _variables(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the template may read beside the messages; None: not what is understood."""
        own = fields.get("chat_template_kwargs") or {}
        generates = fields.get("add_generation_prompt", True)
        continues = fields.get("continue_final_message", False)
        if not isinstance(own, dict) or type(generates) is not bool or type(continues) is not bool:
            return None
        if own.keys() & self._tokenizer.reserved or (generates and continues):
            return None
        if own.keys() & {"add_generation_prompt", "continue_final_message", "chat_template"}:
            return None
        return own | {"add_generation_prompt": generates}


def engine_prompts(instance: Instance) -> EnginePrompts | None:
    """With the tokenizer that the instance was told of; None if there is none."""
    if instance.tokenizer_path is None:
        return None
    return EnginePrompts(EngineTokenizer(Path(instance.tokenizer_path)))


def _plain(message: object) -> dict[str, Any] | None:
    """The message with its content as one text; None if it has more than that."""
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        return None
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and _is_text(content[0]):
        content = content[0]["text"]
    extra = {name for name, value in message.items() if value is not None} - _MESSAGE_FIELDS
    if not isinstance(content, str) or extra or not isinstance(message.get("name", ""), str):
        return None
    return {**message, "content": content}


def _is_text(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )


def _are_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and set(map(type, prompt)) == {int}
