"""
What a server tells of itself, and which kind of engine that makes it.

    asked                kind          told by
    /v1/models           any           `owned_by`: vllm, sglang, llamacpp, levelhead
    /metrics             any           names: vllm:..., sglang:..., llamacpp:..., levelhead_...
    /get_server_info     sglang        `dp_size` (/server_info in later versions)
    /props               llamacpp      `default_generation_settings`
    /version             vllm          `version`, where nothing else was told

What several of them say counts in that order.  A server that tells none of it but has
/v1/models is some OpenAI server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from router.backends.backend import MAX_DP_SIZE, Kind

PATHS = ("/v1/models", "/metrics", "/get_server_info", "/server_info", "/props", "/version")
_OWNERS = {kind.value: kind for kind in Kind if kind is not Kind.OPENAI}
_METRICS = {
    "\nvllm:": Kind.VLLM,
    "\nsglang:": Kind.SGLANG,
    "\nllamacpp:": Kind.LLAMACPP,
    "\nlevelhead_": Kind.LEVELHEAD,
}
# Of any metric: with several API servers, gauges are told only once they were set.
_ENGINE = re.compile(r'^vllm:\w+\{[^}]*\bengine="([0-9]{1,4})"', re.MULTILINE)


class Evidence(NamedTuple):
    """What a server has answered: bodies of good answers, by path."""

    answers: Mapping[str, bytes | None]
    """Empty for an answer that was not good; None, or left out, if there was none."""

    @property
    def has_any(self) -> bool:
        """Whether it has answered anything."""
        return any(answer is not None for answer in self.answers.values())

    @property
    def model(self) -> str:
        """Name of the first model that it serves; empty if it does not tell."""
        name = self._first_model().get("id", "")
        return name if isinstance(name, str) else ""

    def kind(self) -> Kind | None:
        """What it is; None if nothing says."""
        owner = self._first_model().get("owned_by")
        if isinstance(owner, str) and owner in _OWNERS:
            return _OWNERS[owner]
        metrics = "\n" + (self.answers.get("/metrics") or b"").decode(errors="replace")
        for name, kind in _METRICS.items():
            if name in metrics:
                return kind
        if "dp_size" in self._server_info():
            return Kind.SGLANG
        if "default_generation_settings" in self._object("/props"):
            return Kind.LLAMACPP
        if "version" in self._object("/version") and owner is None:
            return Kind.VLLM
        return Kind.OPENAI if self._first_model() else None

    def ranks(self, kind: Kind) -> tuple[int, ...]:
        """DP ranks that it says it has, in order; none if it does not say, or cannot be."""
        if kind is Kind.VLLM:
            metrics = (self.answers.get("/metrics") or b"").decode(errors="replace")
            ranks = {int(rank) for rank in _ENGINE.findall(metrics)}
            return tuple(sorted(rank for rank in ranks if rank < MAX_DP_SIZE))
        if kind is Kind.SGLANG:
            size = self._server_info().get("dp_size")
            return tuple(range(size)) if type(size) is int and 0 < size <= MAX_DP_SIZE else ()
        return (0,)

    def _first_model(self) -> dict[str, Any]:
        models = self._object("/v1/models").get("data")
        first = models[0] if isinstance(models, list) and models else {}
        return first if isinstance(first, dict) else {}

    def _server_info(self) -> dict[str, Any]:
        return self._object("/get_server_info") or self._object("/server_info")

    def _object(self, path: str) -> dict[str, Any]:
        try:
            fields = orjson.loads(self.answers.get(path) or b"")
        except orjson.JSONDecodeError:
            return {}
        return fields if isinstance(fields, dict) else {}
