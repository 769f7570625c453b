"""
An exchange with backends: what the client wrote goes to one of them, and what it says comes back.

Nothing in the request is checked but what decides where it goes: a wish for a rank, and with
several engines the name of its model.  What an engine would refuse, it refuses itself, in its
own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from balancer.exclusion import Exclusion, Exclusions, because
from balancer.load import RequestShape
from router.errors import NoGroup, RequestError
from router.front_door.backend_prompt import PromptMeasure, measured, parsed
from router.front_door.elsewhere import NOT_THERE, UNREACHABLE
from router.front_door.inference_exchange import COUNT_ELSEWHERE_BYTES, InferenceExchange
from router.front_door.prompt import LONGEST_EXACT_BYTES, PromptCount
from router.front_door.rank_wish import groups_against
from router.front_door.upstream import Address, UpstreamConnection

_REFUSALS = {503: "refused"}
_AROUND_A_MESSAGE_BYTES = 64  # a template writes as much, and takes as long as for it
_AS_IT_WAS_TAKEN_S = 1.0
_NOT_FOUND = 404
_NOTHING_DONE = (UNREACHABLE, NOT_THERE)
_ABOUT_WHAT_IS_THERE = (b"GET", b"HEAD", b"DELETE")
_RESPONSES, _PREVIOUS = b"/v1/responses", "previous_response_id"
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
    _fields: Mapping[str, Any] = MappingProxyType({})
    _estimated = PromptCount(0, "estimated")
    _written_s = 0.0

    def start(self) -> None:
        """Count or estimate what it will hold, and dispatch it."""
        request, services = self._request, self._services
        self._fields = fields = parsed(request.body)
        services.dispatcher.refresh()
        try:
            dp_rank = services.wishes.dp_rank(request)
            self._unfit = self._groups_unfit(dp_rank)
        except RequestError as error:
            self._fail(error)
            return
        measure = measured(fields, request.path)
        self._shape = RequestShape(0, dp_rank=dp_rank)
        if measure.is_known:
            self._prompt_size = (measure.text_bytes, measure.num_messages)
        tokens = measure.tokens(services.counter.estimate)
        self._has_prompt = tokens > 0
        self._estimated = PromptCount(tokens, "estimated")
        if self._services.engine_prompts is None or not measure.is_only_text:
            self._count(self._estimated, fields)
        elif len(request.body) > COUNT_ELSEWHERE_BYTES:  # no text is much to do, in many messages
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
        num_bytes = measure.text_bytes + measure.num_messages * _AROUND_A_MESSAGE_BYTES
        is_too_long = max(num_bytes, len(self._request.body) >> 3) > LONGEST_EXACT_BYTES
        if services.engine_prompts is None or is_too_long:
            return self._estimated
        path, page_size = self._request.path, services.counter.page_size
        models = services.dispatcher.models
        if len(models.bases) > 1:
            return self._estimated  # whose tokenizer it is, nobody said
        if not models.is_base(fields.get("model")):
            page_size = 0  # an adapter's prompts are cached apart
        counted = services.engine_prompts.count(fields, path, measure.num_copies, page_size)
        return self._estimated if counted is None else counted

    def _groups_unfit(self, dp_rank: int | None) -> Exclusions:
        """Those that do not serve its model, or are not the engine's rank that it asks for."""
        dispatcher, fields = self._services.dispatcher, self._fields
        ranks = groups_against(dispatcher.rows, fields, dp_rank)
        against = because(ranks, Exclusion.OTHER_RANK)
        if dp_rank is not None:
            return against
        without = dispatcher.models.groups_without(fields.get("model"))
        return against | because(without, Exclusion.OTHER_MODEL)

    def _explained(self, error: NoGroup) -> NoGroup:
        if self._shape.dp_rank is not None:
            return error
        return self._services.dispatcher.models.unavailable(self._fields.get("model"), error)

    def on_lost(self, reason: str) -> None:
        """
        Send it again to the same group if its connection was closed as it was taken.

        Engines close connections that wait when they like: llama.cpp after each stream, and
        says before that it will not.  That is no evidence against the group.  One that was lost
        later was computed for as long: it is lost as any other is.
        """
        attempt, upstream = self._attempt, self._upstream
        was_closed = self._is_reused and upstream is not None and upstream.has_ended
        is_sudden = self._services.clock_s() - self._written_s < _AS_IT_WAS_TAKEN_S
        if attempt is None or attempt.is_answered or not (was_closed and is_sudden):
            super().on_lost(reason)
            return
        self._upstream, self._is_reused = None, False
        self._services.meters.retries["closed"] += 1
        self._begin(self._connect_and_send(attempt.address, attempt.forwarded(self._request)))

    def _send(self, address: Address, payload: bytes) -> None:
        """On a new connection, if it must not be sent twice."""
        if self._may_repeat:
            super()._send(address, payload)
        else:
            self._begin(self._connect_and_send(address, payload))

    def _write(self, connection: UpstreamConnection, payload: bytes) -> None:
        self._written_s = self._services.clock_s()
        super()._write(connection, payload)

    @property
    def _may_repeat(self) -> bool:
        """Whether it does no harm that it is done twice."""
        return self._request.method in _SAFE or self._request.path in _REPEATABLE

    def _session_key(self, body: dict[str, Any]) -> int | None:
        """None without a prompt: what all such requests have in common is no session."""
        return super()._session_key(body) if self._has_prompt else None

    def _retry(self, reason: str, why: str) -> bool:
        """
        One that was lost may have been done: it is sent again only where that does no harm.

        So may one that was answered 503, which a proxy says too when what is behind it was lost.
        """
        self._services.dispatcher.refresh()
        with suppress(RequestError):  # groups may have come and gone: those that are left may do
            self._unfit = self._groups_unfit(self._shape.dp_rank)
        if reason not in _NOTHING_DONE and not self._may_repeat:
            return False
        return super()._retry(reason, why)

    def _refusal(self, status: int) -> str | None:
        """
        What one engine keeps, or may have, is asked of each in turn; the last 404 is the answer.
        """
        if status == _NOT_FOUND and (self._follows_up() or self._is_guessed()):
            return NOT_THERE
        return _REFUSALS.get(status)

    def _is_guessed(self) -> bool:
        """Whether it went to a group that may not have its model, though others have it."""
        if self._attempt is None:
            return False
        models = self._services.dispatcher.models
        return models.is_guess(self._fields.get("model"), self._attempt.dp_rank)

    def _follows_up(self) -> bool:
        """Whether it is about something that an earlier request made, on one engine alone."""
        request = self._request
        return (
            request.method in _ABOUT_WHAT_IS_THERE
            or request.path.startswith(_RESPONSES + b"/")
            or (request.path == _RESPONSES and self._fields.get(_PREVIOUS) is not None)
        )
