"""
The tokenizer and chat template of somebody else's engine, from the folder that it was started with.

Files as Hugging Face has them: tokenizer.json, and the template in chat_template.jinja or
tokenizer_config.json, whose special tokens templates may name.  What the engine does with a
conversation between its API and the template is its own affair: what is left out here, and so
is not counted exactly, is in router.front_door.engine_prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

from router.front_door.known_tokenizer import template_environment

_CONFIG, _SPECIAL, _TEMPLATE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_DEFAULT = "default"
_MARK = "\ue000levelhead-continues-here\ue000 "  # with the space that a template may trim


class EngineTokenizer:
    """Read once; raises what reading raises if the folder is not such a one."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = _parsed(folder / _CONFIG)
        self.template_text = _template(folder, config)
        """Empty: it has none."""
        self._template = template_environment().from_string(self.template_text)
        self._tokens = _named_tokens(_parsed(folder / _SPECIAL) | config)

    @property
    def reserved(self) -> frozenset[str]:
        """Names that mean something in a template and are no request's to set."""
        return frozenset((*self._tokens, "messages", "tools", "documents"))

    def text_tokens(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a plain prompt; with what the tokenizer puts around it, if `special`."""
        # The batch call lets other threads run; a plain encode holds them all up.
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)[
            0
        ].ids
        return ids

    def chat_text(
        self,
        messages: list[dict[str, Any]],
        variables: Mapping[str, Any],
        *,
        is_continued: bool = False,
    ) -> str:
        """
        The conversation as the model reads it.

        is_continued: it ends with the last message's content, which is a text, and not with what
        ends a message; a template that trims has that content trimmed, as `transformers` does.
        Raises whatever the template raises.
        """
        if is_continued:
            *before, last = messages
            messages = [*before, {**last, "content": last["content"] + _MARK}]
        names = {"tools": None, "documents": None} | dict(variables) | self._tokens
        text = self._template.render(messages=messages, **names)
        if not is_continued:
            return text
        at = text.rindex(_MARK.strip())
        return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    if (folder / _TEMPLATE).exists():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    told = config.get("chat_template")
    if isinstance(told, list):  # several by name
        named = {each["name"]: each["template"] for each in told}
        told = named.get(_DEFAULT)
    return told if isinstance(told, str) else ""


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the special tokens that are told by name, as `bos_token`."""
    tokens = {}
    for name, told in config.items():
        text = told.get("content") if isinstance(told, dict) else told
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _parsed(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    fields = orjson.loads(path.read_bytes())
    return fields if isinstance(fields, dict) else {}
