"""
Turn a conversation into a prompt, with the template that came with the model.

A template is a program of whoever published the model.  It runs in Jinja's
immutable sandbox: it sees the messages and the values below, and no more.

It is rendered as `transformers` renders it: the same block trimming, the same
globals (`raise_exception`, `strftime_now`), the same `tojson`, and the tag
`generation`, which there marks what the assistant said, and here does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workers.model.errors import ChatTemplateError

Messages = Sequence[Mapping[str, Any]]


class _GenerationTag(Extension):
    """The block {% generation %}...{% endgeneration %} is replaced by its body."""

    tags = {"generation"}  # noqa: RUF012 - the type that Jinja declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template.  Raises ChatTemplateError if source is not one."""

    def __init__(
        self,
        source: str,
        bos_token: str | None,
        eos_token: str | None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda format: now().strftime(format)
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template is broken: {error}") from error

    def render(self, messages: Messages, add_generation_prompt: bool) -> str:
        """Return the prompt; raises ChatTemplateError for messages it does not fit."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ChatTemplateError(f"the chat template refuses these messages: {error}") from error


def _to_json(value: object, indent: int | None = None) -> str:
    """Dump value as JSON for a prompt: no HTML escapes, no ASCII escapes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
