"""
How many prompt tokens a request has: those that its group will hold for it.

Each copy that `n` asks for is a request of its own there, and holds all of the prompt.

Exact where the groups' tokenizer is known: the chat template is rendered and
the text is encoded as the group will do it.  Elsewhere, and for a prompt of
over a MiB, estimated from the bytes of the prompt, at a ratio that is corrected
by the `usage` that comes back.  Which of the two is a label of
levelhead_prompt_tokens_total.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from router.errors import BadRequest
from router.front_door.known_tokenizer import KnownTokenizer
from shm.page_digest import page_digests

_log = logging.getLogger("levelhead.front_door")
CHAT_PATH = b"/v1/chat/completions"
GENERATE_PATH = b"/generate"
_MAX_CHOICES = 128  # in one answer of a group of ours; it refuses more
_FIRST_BYTES_PER_TOKEN = 4.0  # English prose under a 50k to 150k vocabulary
_LEARNING_RATE = 0.05
_EARLY_SAMPLES = 200
_SAMPLE_EVERY = 16
LONGEST_EXACT_BYTES = 1 << 20  # about a second of encoding, and more than contexts hold
_TOKENS_PER_MESSAGE = 4  # role and separators of common chat templates


class PromptCount(NamedTuple):
    """Prompt tokens of one request."""

    tokens: int
    source: str
    """`exact` or `estimated`."""
    page_digests: Sequence[int] = ()
    """Of the full pages of an only prompt that was counted exactly, if they are wanted."""
    page_size: int = 0
    """Tokens in each of those pages."""
    num_outputs: int = 1
    """Of all prompts of the body, and all choices."""


class ByteEstimate:
    """Prompt tokens from prompt bytes; learns the ratio from what groups report."""

    def __init__(self) -> None:
        self.bytes_per_token = _FIRST_BYTES_PER_TOKEN
        self._num_asked = 0

    def is_due(self) -> bool:
        """Whether the next answer's usage should be looked at: all at first, then a sample."""
        self._num_asked += 1
        return self._num_asked <= _EARLY_SAMPLES or self._num_asked % _SAMPLE_EVERY == 0

    def count(self, num_bytes: int, num_messages: int) -> int:
        """Estimated tokens; at least 1."""
        return max(1, round(num_bytes / self.bytes_per_token) + num_messages * _TOKENS_PER_MESSAGE)

    def correct(self, num_bytes: int, num_messages: int, tokens: int) -> None:
        """The group counted that many tokens; move the ratio a little towards it."""
        of_text = tokens - num_messages * _TOKENS_PER_MESSAGE
        if num_bytes and of_text > 0:
            ratio = min(16.0, max(0.25, num_bytes / of_text))
            self.bytes_per_token += _LEARNING_RATE * (ratio - self.bytes_per_token)


def text_bytes(body: dict[str, Any], path: bytes) -> tuple[int, int]:
    """
    Bytes of prompt text and number of messages in a request body.

    Raises BadRequest if what must be counted has the wrong type.
    """
    if path == CHAT_PATH:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages: a list with at least one message is needed", "messages")
        return sum(_content_bytes(message) for message in messages), len(messages)
    return _prompt_bytes(*_prompt(body, path)), 0


def _prompt(body: dict[str, Any], path: bytes) -> tuple[Any, str]:
    """The prompt of a body that is no conversation, and the name of its field."""
    name = "prompt"
    if path == GENERATE_PATH:
        name = "text" if body.get("text") is not None else "input_ids"
    return body.get(name), name


def _num_prompts(body: dict[str, Any], path: bytes) -> int:
    prompt = None if path == CHAT_PATH else _prompt(body, path)[0]
    return len(prompt) if isinstance(prompt, list) and not _is_token_ids(prompt) else 1


def _num_copies(body: dict[str, Any], path: bytes) -> int:
    """Outputs of each prompt; the group refuses what is no such number."""
    if path == GENERATE_PATH:
        sampling = body.get("sampling_params")
        first = sampling[0] if isinstance(sampling, list) and sampling else sampling
        body = first if isinstance(first, dict) else {}
    value = body.get("n")
    return value if type(value) is int and 1 <= value <= _MAX_CHOICES else 1


def _content_bytes(message: Any) -> int:
    if not isinstance(message, dict):
        raise BadRequest(
            f"messages: each must be an object, one is {type(message).__name__}", "messages"
        )
    content = message.get("content")
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return sum(len(text.encode()) for text in texts if isinstance(text, str))
    return 0


def _prompt_bytes(prompt: Any, name: str) -> int:
    if isinstance(prompt, list) and prompt and not _is_token_ids(prompt):
        return sum(_one_prompt_bytes(part, name) for part in prompt)
    return _one_prompt_bytes(prompt, name)


def _one_prompt_bytes(prompt: Any, name: str) -> int:
    if isinstance(prompt, str):
        return len(prompt.encode())
    if _is_token_ids(prompt):
        return len(prompt) * int(_FIRST_BYTES_PER_TOKEN)
    raise BadRequest(f"{name}: a string, a list of token ids, or a list of those is needed", name)


def _is_token_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and set(map(type, prompt)) == {int}


class PromptCounter:
    """Counts exactly when it knows a tokenizer, and estimates when not."""

    def __init__(self) -> None:
        self.estimate = ByteEstimate()
        self.page_size = 0
        """Tokens in the pages that are named by digests; 0: none are."""
        self._folder: str | None = None
        self._known: KnownTokenizer | None = None

    def use_tokenizer(self, folder: str | None) -> None:
        """Load that folder's tokenizer, once; None, or one that cannot be read: estimate."""
        if folder == self._folder:
            return
        self._folder, self._known = folder, None
        if folder is None:
            return
        try:
            self._known = KnownTokenizer(Path(folder))
        except Exception as error:  # noqa: BLE001  tokenizers and jinja2 share no base class
            _log.warning("prompts are estimated: no tokenizer can be read in %s: %s", folder, error)

    @property
    def is_exact(self) -> bool:
        """Whether a tokenizer is known."""
        return self._known is not None

    @property
    def names_pages(self) -> bool:
        """Whether the pages of a prompt that is counted exactly get digests."""
        return self._known is not None and self.page_size > 0

    def count(self, body: dict[str, Any], path: bytes, size: tuple[int, int]) -> PromptCount:
        """Prompt tokens of a body whose text_bytes are `size`, for each copy that it asks for."""
        num_copies = _num_copies(body, path)
        too_long = size[0] > LONGEST_EXACT_BYTES
        prompts = None if too_long else self._tokens(body, path)
        num_outputs = num_copies * _num_prompts(body, path)
        if prompts is None:
            tokens = self.estimate.count(*size) * num_copies
            return PromptCount(tokens, "estimated", num_outputs=num_outputs)
        num_tokens, page_size = sum(map(len, prompts)) * num_copies, self.page_size
        if not page_size or len(prompts) != 1:
            return PromptCount(num_tokens, "exact", num_outputs=num_outputs)
        digests = digests_of(prompts[0], page_size)
        return PromptCount(num_tokens, "exact", digests, page_size, num_outputs)

    def _tokens(self, body: dict[str, Any], path: bytes) -> list[Sequence[int]] | None:
        """Tokens of each of the body's prompts; None if they cannot be known."""
        known = self._known
        if path == CHAT_PATH:
            tokens = known.chat_tokens(body["messages"]) if known else None
            return None if tokens is None else [tokens]
        prompt, _ = _prompt(body, path)
        prompts = [prompt] if isinstance(prompt, str) or _is_token_ids(prompt) else prompt
        if known is None and any(isinstance(each, str) for each in prompts):
            return None
        return [
            known.text_tokens(each) if known and isinstance(each, str) else each for each in prompts
        ]


def digests_of(tokens: Sequence[int], page_size: int) -> Sequence[int]:
    """Of the full pages of a prompt; none if it has what can be no token id."""
    try:
        return page_digests(tokens, page_size)
    except OverflowError:
        return ()  # no token ids: the group will refuse them


def parsed_body(body: bytes) -> dict[str, Any]:
    """The fields of a body that has to be a JSON object.  Raises BadRequest."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRequest(f"the body must be a JSON object, it is {type(parsed).__name__}")
    return parsed
