"""
The groups' own tokenizer and chat template, to count prompts as the groups will.

Rendered as `transformers` renders, and as the built-in workers do, who may not
be imported here: the two are held together by tests/e2e, which compares counts
with what groups report.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import orjson
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer


class KnownTokenizer:
    """Reads the folder that the groups wrote: tokenizer.json and chat.json."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        chat = orjson.loads((folder / "chat.json").read_bytes())
        source = chat["chat_template"]
        self._template = template_environment().from_string(source) if source else None
        self._tokens = {name: chat[name] or "" for name in ("bos_token", "eos_token")}

    def text_tokens(self, text: str) -> list[int]:
        """Tokens of a plain prompt, with what the tokenizer puts before it."""
        return self._tokens_of(text, special=True)

    def chat_tokens(self, messages: list[Any]) -> list[int] | None:
        """Tokens of a conversation; None if the template refuses it (the group will say why)."""
        if self._template is None:
            return None
        try:
            plain = [_plain(message) for message in messages]
            text = self._template.render(messages=plain, add_generation_prompt=True, **self._tokens)
        except Exception:  # noqa: BLE001  a template is foreign code run on foreign data
            return None
        return self._tokens_of(text, special=False)

    def _tokens_of(self, text: str, *, special: bool) -> list[int]:
        # The batch call lets other threads run; a plain encode holds them all up.
        encode = self._tokenizer.encode_batch_fast
        ids: list[int] = encode([text], add_special_tokens=special)[0].ids
        return ids


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its content as one text, as the groups put text parts together."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    return {**message, "content": content or ""}


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said; for a count it is its body."""

    tags = {"generation"}  # noqa: RUF012  the type that Jinja declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_environment() -> jinja2.Environment:
    """Where chat templates are rendered, as `transformers` has it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
