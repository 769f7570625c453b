"""
An exchange with the DP groups: one request, dispatched until a group answers it.

    start ── count ── attempt ── head ── first byte ── … ── end
                         ▲         │          │
                         └─────────┘          └─ from here on the answer is this group's

A group that cannot be reached, is lost or refuses before a byte of an answer went to the client
is left for another one: a bounded number of times, never for one that was tried, each time with
an attempt of its own.  The head of an event stream waits for its first byte, because some engines
send it when the request is queued.  Afterwards a loss is told as honestly as it still can be.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

from balancer.assignment import Assignment
from balancer.exclusion import Exclusions
from balancer.load import RequestShape
from router.errors import BadRequest, GroupLost, NoGroup, RequestError
from router.front_door.answer import Answer
from router.front_door.attempt import Attempt
from router.front_door.elsewhere import UNREACHABLE, Elsewhere
from router.front_door.exchange import Client, Exchange
from router.front_door.message import Request
from router.front_door.prompt import GENERATE_PATH, PromptCount, parsed_body, text_bytes
from router.front_door.services import Services
from router.front_door.upstream import UpstreamConnection

_log = logging.getLogger("levelhead.front_door")
COUNT_ELSEWHERE_BYTES = 8 << 10  # longer prompts are tokenized beside the event loop
_OK = 200
_REFUSED = 503
_WRONG_EPOCH = 421
_REFUSALS = {_REFUSED: "refused", _WRONG_EPOCH: "wrong_epoch"}


class _Head(NamedTuple):
    """The head of an answer whose first byte has not come."""

    status: int
    lines: bytes
    until_eof: bool


class InferenceExchange(Exchange):
    """Dispatches one inference request and relays the answer of the group that gives one."""

    def __init__(self, client: Client, request: Request, services: Services) -> None:
        super().__init__(client, request, services.pool)
        self._services = services
        self._shape = RequestShape(0)
        self._attempt: Attempt | None = None
        self._elsewhere = Elsewhere(services)
        self._unfit: Exclusions = {}  # groups that it is never sent to
        self._answer: Answer | None = None
        self._held: _Head | None = None
        self._prompt_size = (0, 0)
        self._learns = False
        self._status = 0
        services.meters.open_requests += 1

    def start(self) -> None:
        """Check what must be understood to dispatch it, count its prompt, and dispatch it."""
        try:
            body = parsed_body(self._request.body)
            self._prompt_size = text_bytes(body, self._request.path)
            dp_rank = self._services.wishes.dp_rank(self._request)
        except BadRequest as error:
            self._fail(error)
            return
        self._shape = RequestShape(0, dp_rank=dp_rank)
        counter = self._services.counter
        if counter.is_exact and len(self._request.body) > COUNT_ELSEWHERE_BYTES:
            self._begin(self._count_elsewhere(body))
        else:
            self._count(counter.count(body, self._request.path, self._prompt_size), body)

    async def _count_elsewhere(self, body: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        services, request = self._services, self._request
        counted = await loop.run_in_executor(
            services.executor, services.counter.count, body, request.path, self._prompt_size
        )
        self._connecting = None
        self._count(counted, body)

    def _count(self, counted: PromptCount, body: dict[str, Any]) -> None:
        """Dispatch it.  Where its pages have names, they say better what goes together."""
        session_key = None
        if not counted.page_digests:
            session_key = self._session_key(body)
        self._shape = self._shape._replace(
            prompt_tokens=counted.tokens,
            page_digests=counted.page_digests,
            page_size=counted.page_size,
            session_key=session_key,
            num_outputs=counted.num_outputs,
        )
        self._dispatch(counted)

    def _session_key(self, body: dict[str, Any]) -> int | None:
        return self._services.wishes.session_key(self._request, body)

    def _dispatch(self, counted: PromptCount) -> None:
        try:
            assignment = self._services.dispatcher.assign(self._shape, self._unfit)
        except NoGroup as error:
            self._fail(self._explained(error))
            return
        self._go(assignment, counted)

    def _explained(self, error: NoGroup) -> NoGroup:
        return error

    def _go(self, assignment: Assignment, counted: PromptCount) -> None:
        """To the first group."""
        services = self._services
        tells_all = self._request.path != GENERATE_PATH  # there each choice has counts of its own
        is_estimated = counted.source == "estimated" and tells_all
        self._learns = is_estimated and services.counter.estimate.is_due()
        services.meters.prompt_tokens[counted.source] += counted.tokens
        services.retry_budget.deposit()
        self._try(assignment)

    def _try(self, assignment: Assignment) -> None:
        """Send the request to the group that was chosen."""
        attempt = self._attempt = Attempt(self._services, assignment)
        self._elsewhere.sent_to(attempt)
        if self._services.tracing is not None:
            num_attempts = self._elsewhere.num_attempts
            self._services.tracing.dispatched(self._request, assignment, num_attempts)
        self._send(attempt.address, attempt.forwarded(self._request))

    def _write(self, connection: UpstreamConnection, payload: bytes) -> None:
        if self._attempt is not None:
            self._attempt.written()
        super()._write(connection, payload)

    def _retry(self, reason: str, why: str) -> bool:
        """Leave this group for another; False if the request may not, or nobody can take it."""
        left = self._attempt
        if self._head_passed or left is None:
            return False
        assignment = self._elsewhere.assign(reason, self._shape, self._unfit)
        if assignment is None:
            return False
        self._services.meters.retries[reason] += 1
        _log.info(
            "request %s: DP group %d: %s; it goes to DP group %d as %s",
            left.dp_balance_id, left.dp_rank, why, assignment.dp_rank, assignment.dp_balance_id,
        )  # fmt: skip
        left.close()
        self._drop_upstream()
        self._held = None
        self._try(assignment)
        return True

    def _refusal(self, status: int) -> str | None:
        """Why a group that answers so leaves the request to another one; None: it does not."""
        return _REFUSALS.get(status)

    # What the upstream connection calls

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        """Go elsewhere if it refuses; else pass it on, a stream's with its first byte."""
        if self._attempt is not None:
            self._attempt.answered(status)
        refusal = self._refusal(status)
        if refusal is not None and self._retry(refusal, f"it answered {status}"):
            return
        if refusal == _REFUSALS[_WRONG_EPOCH]:
            self._give_up("another life of it answers")
            return
        services = self._services
        self._answer = Answer(
            self._request,
            head,
            services.meters,
            services.clock_s,
            keeps_tail=self._learns or services.request_log is not None,
        )
        if data or not self._answer.is_stream:
            self._pass_on(status, head, data, until_eof=until_eof)
        else:
            self._held = _Head(status, head, until_eof)

    def on_data(self, data: bytes) -> None:
        """Pass it on, then count the events in it."""
        if self._held is not None:
            if data:  # none yet for a client that does not know chunked coding
                self._pass_held(self._held, data)
            return
        super().on_data(data)
        self._note(data)

    def on_end(self) -> None:
        """Learn from the usage that came back."""
        if self._held is not None:
            if self._held.until_eof:  # an empty stream, or one whose group died: who could tell?
                self.on_lost("its connection was closed before a byte of the stream")
                return
            self._pass_held(self._held, b"")
        if self._learns and self._answer is not None:
            tokens = self._answer.prompt_tokens()
            if tokens is not None:
                self._services.counter.estimate.correct(*self._prompt_size, tokens)
        if self._attempt is not None:
            self._attempt.is_complete = True
        super().on_end()

    def on_lost(self, reason: str) -> None:
        """The group was lost before its answer was complete."""
        self._upstream = None
        self._services.meters.upstream_lost += 1
        if self._attempt is not None:
            self._attempt.lost(reason)
        if not self._retry("lost", reason):
            super().on_lost(reason)

    def client_lost(self) -> None:
        """The client left."""
        if not self._over:
            self._services.meters.disconnects += 1
        super().client_lost()

    # Inside

    def _reached(self) -> None:
        if self._attempt is not None:
            self._attempt.reached()

    def _unreachable(self, reason: str) -> None:
        if self._attempt is not None:
            self._attempt.unreachable(reason)
        if not self._retry(UNREACHABLE, reason):
            super()._unreachable(reason)

    def _give_up(self, reason: str) -> None:
        """The group's answer is of no use, and nobody else can give one."""
        self._drop_upstream()
        self._fail(self._lost_error(reason))

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.drop()
            self._upstream = None

    def _pass_held(self, held: _Head, data: bytes) -> None:
        self._held = None
        self._pass_on(held.status, held.lines, data, until_eof=held.until_eof)

    def _pass_on(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        """The head and the first piece: from now on the answer is this group's."""
        self._status = status
        super().on_head(status, head, data, until_eof=until_eof)
        self._note(data)

    def _note(self, data: bytes) -> None:
        if not data or self._answer is None or self._attempt is None:
            return
        num_events = self._answer.note(data)
        if num_events:
            self._attempt.streamed(num_events)

    def _end(self, error: RequestError | None) -> None:
        """Close the books of the request, and the attempt that it is at."""
        super()._end(error)
        services = self._services
        services.meters.open_requests -= 1
        status = self._status or (error.status if error else 499)  # 499: the client left first
        services.meters.responses[status] += 1
        age_s = services.clock_s() - self._request.began_s
        if self._answer is not None:
            self._answer.close()
        if self._attempt is None:
            return
        if self._attempt.is_complete and self._status == _OK:
            services.meters.end_to_end_s.observe(age_s)
        self._attempt.close()
        if services.request_log is None or not self._shape.prompt_tokens:
            return  # without a prompt it was no inference: a backend's endpoints are many
        if self._answer is not None and self._status == _OK:
            told = self._answer.output_tokens()
            output_tokens = self._attempt.num_streamed if told is None else told
            services.request_log.note(age_s, self._shape, output_tokens)

    def _head_lines(self) -> bytes:
        return self._attempt.answer_lines() if self._attempt is not None else b""

    def _lost_error(self, reason: str) -> RequestError:
        rank = self._attempt.dp_rank if self._attempt is not None else "?"
        _log.warning("DP group %s: %s", rank, reason)
        return GroupLost(f"DP group {rank} was lost: {reason}")

    def _broken_tail(self, error: RequestError) -> bytes:
        return self._answer.broken_tail(error) if self._answer is not None else b""
