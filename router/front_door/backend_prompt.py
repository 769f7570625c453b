"""
What a backend will hold for a request, as far as its body tells: an estimate, never a refusal.

Any field and any type may stand in a body; what is wrong with it, the engine says.
So text is looked for where the APIs of today keep it, and what is not understood counts
for nothing.

    text      the strings in fields of prompts, whole messages among them; not images or audio
    token ids lists of integers there
    nothing   paths that hold no KV, and bodies that are no JSON object
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from router.front_door.prompt import ByteEstimate

_HOLDING_NOTHING = frozenset((b"/tokenize", b"/detokenize", b"/apply-template"))
_PROMPTS = (
    "messages", "system", "prompt", "text", "input_ids", "input", "instructions", "suffix",
    "query", "queries", "documents", "text_1", "text_2", "input_prefix", "input_suffix",
)  # fmt: skip
_PARTS = ("content", "text")
_ONLY_TEXT = ("text", "input_text", "output_text", None)
_MAX_DEPTH = 8
_MAX_COPIES = 128


class PromptMeasure(NamedTuple):
    """What of a body is prompt."""

    text_bytes: int = 0
    num_messages: int = 0
    num_ids: int = 0
    """Tokens that came as numbers."""
    num_copies: int = 1
    """Outputs that are asked for, each of which holds the prompt."""
    is_only_text: bool = True

    @property
    def is_known(self) -> bool:
        """Whether the answer's count of prompt tokens is one of this text alone."""
        return self.is_only_text and self.text_bytes > 0 and self.num_ids == 0

    def tokens(self, estimate: ByteEstimate) -> int:
        """Tokens that the group will hold for it; 0 if there is no prompt in it."""
        text = estimate.count(self.text_bytes, self.num_messages) if self.text_bytes else 0
        return (text + self.num_ids) * self.num_copies


def parsed(body: bytes) -> dict[str, Any]:
    """The body's fields; none if it is no JSON object."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def measured(fields: dict[str, Any], path: bytes) -> PromptMeasure:
    """How much prompt a body with those fields has."""
    if path in _HOLDING_NOTHING:
        return PromptMeasure()
    found = _Found()
    for name in _PROMPTS:
        found.look(fields.get(name), _MAX_DEPTH)
    messages = fields.get("messages")
    return PromptMeasure(
        found.text_bytes,
        len(messages) if isinstance(messages, list) else 0,
        found.num_ids,
        _num_copies(fields),
        found.is_only_text,
    )


class _Found:
    """Adds up what is found."""

    def __init__(self) -> None:
        self.text_bytes = 0
        self.num_ids = 0
        self.is_only_text = True

    def look(self, value: Any, depth: int) -> None:
        """Add what is in the value, however deep within reason."""
        if isinstance(value, str):
            self.text_bytes += len(value.encode())
        elif not depth:
            return
        elif isinstance(value, list):
            if value and all(type(each) is int for each in value):
                self.num_ids += len(value)
                return
            for each in value:
                self.look(each, depth - 1)
        elif isinstance(value, dict):
            self.is_only_text = self.is_only_text and value.get("type") in _ONLY_TEXT
            for part in _PARTS:
                self.look(value.get(part), depth - 1)


def _num_copies(fields: dict[str, Any]) -> int:
    sampling = fields.get("sampling_params")
    told = fields.get("n") or (sampling.get("n") if isinstance(sampling, dict) else None)
    return told if type(told) is int and 1 <= told <= _MAX_COPIES else 1
