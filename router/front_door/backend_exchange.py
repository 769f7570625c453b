"""
An exchange with backends: what the client wrote goes to one of them, and what it says comes back.

Nothing in the request is checked but the wish for a rank, which is ours to fulfil.
What the engine would refuse, it refuses itself, in its own words: a model that nobody
serves, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from balancer.load import RequestShape
from router.errors import BadRequest
from router.front_door.backend_prompt import PromptMeasure, measured, parsed
from router.front_door.inference_exchange import COUNT_ELSEWHERE_BYTES, InferenceExchange
from router.front_door.prompt import LONGEST_EXACT_BYTES, PromptCount

_REFUSALS = {503: "refused"}
_SAFE = (b"GET", b"HEAD", b"OPTIONS")
# What computes an answer and changes nothing: may be computed twice.
_REPEATABLE = frozenset(
    (
        b"/v1/chat/completions", b"/v1/completions", b"/v1/messages", b"/v1/embeddings",
        b"/generate", b"/completion", b"/completions", b"/chat/completions", b"/embeddings",
        b"/embedding", b"/infill", b"/rerank", b"/v1/rerank", b"/v2/rerank", b"/score",
        b"/v1/score", b"/classify", b"/pooling", b"/tokenize", b"/detokenize",
    )
)  # fmt: skip


class BackendExchange(InferenceExchange):
    """Dispatches one request, of whatever kind, and relays the answer of the group it went to."""

    _has_prompt = False
    _estimated = PromptCount(0, "estimated")
    _refusals: ClassVar[Mapping[int, str]] = _REFUSALS

    def start(self) -> None:
        """Count or estimate what it will hold, and dispatch it."""
        request = self._request
        try:
            dp_rank = self._services.wishes.dp_rank(request)
        except BadRequest as error:
            self._fail(error)
            return
        fields = parsed(request.body)
        measure = measured(fields, request.path)
        self._shape = RequestShape(0, dp_rank=dp_rank)
        if dp_rank is None:
            self._unfit = self._services.dispatcher.groups_without(fields.get("model"))
        if measure.is_known:
            self._prompt_size = (measure.text_bytes, measure.num_messages)
        tokens = measure.tokens(self._services.counter.estimate)
        self._has_prompt = tokens > 0
        self._estimated = PromptCount(tokens, "estimated")
        if self._services.engine_prompts is None or not measure.is_only_text:
            self._count(self._estimated, fields)
        elif measure.text_bytes > COUNT_ELSEWHERE_BYTES:
            self._begin(self._count_beside(fields, measure))
        else:
            self._count(self._exactly(fields, measure), fields)

    async def _count_beside(self, fields: dict[str, Any], measure: PromptMeasure) -> None:
        """A long prompt is tokenized beside the event loop."""
        loop, executor = asyncio.get_running_loop(), self._services.executor
        counted = await loop.run_in_executor(executor, self._exactly, fields, measure)
        self._connecting = None
        self._count(counted, fields)

    def _exactly(self, fields: dict[str, Any], measure: PromptMeasure) -> PromptCount:
        """The prompt as its engine counts it, or estimated where that is not known."""
        services = self._services
        if services.engine_prompts is None or measure.text_bytes > LONGEST_EXACT_BYTES:
            return self._estimated
        path, page_size = self._request.path, services.counter.page_size
        bases, model = services.dispatcher.first_models, fields.get("model")
        if len(bases) > 1:
            return self._estimated  # whose tokenizer it is, nobody said
        if bases and model and model not in bases:
            page_size = 0  # an adapter's prompts are cached apart
        counted = services.engine_prompts.count(fields, path, measure.num_copies, page_size)
        return self._estimated if counted is None else counted

    def _session_key(self, body: dict[str, Any]) -> int | None:
        """None without a prompt: what all such requests have in common is no session."""
        return super()._session_key(body) if self._has_prompt else None

    def _retry(self, reason: str, why: str) -> bool:
        """
        One that was lost may have been done: it is sent again only where that does no harm.

        So may one that was answered 503, which a proxy says too when what is behind it was lost.
        """
        request = self._request
        may_repeat = request.method in _SAFE or request.path in _REPEATABLE
        if reason != "unreachable" and not may_repeat:
            return False
        return super()._retry(reason, why)
