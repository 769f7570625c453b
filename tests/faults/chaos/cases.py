"""The requests of a chaos run, with the text that each must get."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import httpx

from tests.e2e.instance import events

_WORDS = "the quick brown fox jumps over a lazy dog and the load balancer looks at each group "
_PROMPTS = ("a", "What is the capital of France?", _WORDS * 4, _WORDS * 16)
_OUTPUTS = (1, 40, 250, 900)


class Case(NamedTuple):
    """A request and its answer's text."""

    path: str
    body: dict[str, Any]
    expected: str

    def bytes(self, *, is_stream: bool) -> bytes:
        """The body to send."""
        return json.dumps(self.body | {"stream": is_stream}).encode()


def learn_cases(url: str, model: str) -> list[Case]:
    """Ask a quiet instance everything once, whole and streamed; both must say the same."""
    return [_learned(url, path, body) for path, body in _requests(model)]


def _requests(model: str) -> list[tuple[str, dict[str, Any]]]:
    common = {"model": model, "ignore_eos": True, "temperature": 0}
    found: list[tuple[str, dict[str, Any]]] = []
    for number, prompt in enumerate(_PROMPTS):
        for max_tokens in _OUTPUTS[number % 2 :: 2]:
            body = common | {"prompt": prompt, "max_tokens": max_tokens}
            found.append(("/v1/completions", body))
            message = {"role": "user", "content": f"{prompt} {max_tokens}"}
            chat = common | {"messages": [message], "max_tokens": max_tokens}
            found.append(("/v1/chat/completions", chat))
    return found


def _learned(url: str, path: str, body: dict[str, Any]) -> Case:
    answer = httpx.post(url + path, json=body | {"stream": False}, timeout=60).raise_for_status()
    choice = answer.json()["choices"][0]
    whole = choice["text"] if "text" in choice else choice["message"]["content"]
    with httpx.stream("POST", url + path, json=body | {"stream": True}, timeout=60) as stream:
        choices = [event["choices"][0] for event in events(stream)]
    streamed = "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)
    assert streamed == whole, f"{path} {body}: {streamed!r} is not {whole!r}"
    return Case(path, body, whole)
