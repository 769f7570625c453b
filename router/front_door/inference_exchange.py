"""An exchange with a DP group: dispatched, charged, measured, and released once."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import orjson

from balancer.assignment import Assignment, End
from balancer.load import RequestShape
from router.errors import BadRequest, GroupLost, RequestError
from router.front_door.dispatcher import Dispatcher
from router.front_door.exchange import Client, Exchange
from router.front_door.message import Request
from router.front_door.meters import Meters
from router.front_door.prompt import PromptCount, PromptCounter, text_bytes
from router.front_door.settlement import Settlement
from router.front_door.upstream import Address, UpstreamPool

_log = logging.getLogger("levelhead.front_door")
_COUNT_ELSEWHERE_BYTES = 8 << 10  # longer prompts are tokenized beside the event loop
_TAIL_BYTES = 1024  # where `usage` stands in an answer
_CHUNKED = b"\r\ntransfer-encoding: chunked"
_EVENT_STREAM = b"text/event-stream"
_EVENT = b"data: {"
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')


class Services(NamedTuple):
    """What the inference exchanges of one front door share."""

    dispatcher: Dispatcher
    counter: PromptCounter
    meters: Meters
    pool: UpstreamPool
    settlement: Settlement
    executor: Executor
    clock_s: Callable[[], float]
    slot: int
    epoch: int


class InferenceExchange(Exchange):
    """Dispatches one inference request and relays its answer."""

    def __init__(self, client: Client, request: Request, services: Services) -> None:
        super().__init__(client, request, services.pool)
        self._services = services
        self._assignment: Assignment | None = None
        self._address: Address | None = None
        self._written = False
        self._prompt_size = (0, 0)
        self._learns = False
        self._status = 0
        self._is_stream = False
        self._is_chunked = False
        self._last_piece = b""
        self._last_data_s = 0.0
        self._tail = b""
        services.meters.open_requests += 1

    def start(self) -> None:
        """Check what must be understood to dispatch it, count its prompt, and dispatch it."""
        try:
            body = _parsed(self._request.body)
            self._prompt_size = text_bytes(body, self._request.path)
        except BadRequest as error:
            self._fail(error)
            return
        counter = self._services.counter
        if counter.is_exact and self._prompt_size[0] > _COUNT_ELSEWHERE_BYTES:
            self._begin(self._count_elsewhere(body))
        else:
            self._dispatch(counter.count(body, self._request.path, self._prompt_size))

    async def _count_elsewhere(self, body: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        services, request = self._services, self._request
        counted = await loop.run_in_executor(
            services.executor, services.counter.count, body, request.path, self._prompt_size
        )
        self._connecting = None
        self._dispatch(counted)

    def _dispatch(self, counted: PromptCount) -> None:
        services = self._services
        try:
            shape = RequestShape(counted.tokens, counted.page_digests, counted.page_size)
            assignment = services.dispatcher.assign(shape)
        except RequestError as error:
            self._fail(error)
            return
        self._assignment = assignment
        self._learns = counted.source == "estimated" and services.counter.estimate.is_due()
        services.meters.prompt_tokens[counted.source] += counted.tokens
        self._address = services.dispatcher.address(assignment.dp_rank)
        charge = self._request.forwarded(b"POST", self._charge_lines(assignment))
        self._send(self._address, charge)
        self._written = self._upstream is not None

    async def _connect_and_send(self, address: Any, payload: bytes) -> None:
        await super()._connect_and_send(address, payload)
        self._written = self._upstream is not None

    def on_head(self, status: int, head: bytes, data: bytes, *, until_eof: bool) -> None:
        """Note the status and whether tokens will be streamed."""
        self._status = status
        self._is_stream = _EVENT_STREAM in head
        if self._is_stream:
            self._is_chunked = not self._request.is_http10 and _CHUNKED in head.lower()
        super().on_head(status, head, data, until_eof=until_eof)
        self._note(data)

    def on_data(self, data: bytes) -> None:
        """Pass it on, then count the events in it."""
        self._client.write(data)
        self._note(data)

    def on_end(self) -> None:
        """Learn from the usage that came back."""
        self._learn_usage()
        super().on_end()

    def on_lost(self, reason: str) -> None:
        """The group was lost before its answer was complete."""
        self._settle()
        self._services.meters.upstream_lost += 1
        super().on_lost(reason)

    def client_lost(self) -> None:
        """The client left: whether the group has seen the request yet is not known."""
        if not self._over:
            self._services.meters.disconnects += 1
            self._settle()
        super().client_lost()

    def _settle(self) -> None:
        """
        Ask the group what became of a request that was written and not answered.

        Asked where it was sent: a later life of the group, at another address,
        would count a charge that was never sent to it.
        """
        if self._assignment is None or self._address is None:
            return
        if self._written and not self._head_passed:
            self._services.settlement.ask(self._address, self._assignment)

    def _end(self, error: RequestError | None) -> None:
        """Close the books: the one place where an assignment is released."""
        super()._end(error)
        services = self._services
        services.meters.open_requests -= 1
        status = self._status or (error.status if error else 499)  # 499: the client left first
        services.meters.responses[status] += 1
        services.meters.end_to_end_s.observe(services.clock_s() - self._request.began_s)
        if self._assignment is not None:
            services.dispatcher.controller.release(self._assignment, self._fate())

    def _fate(self) -> End:
        """What became of the request in its group: a status comes with its first output."""
        if not self._written:
            return End.NEVER_SENT
        return End.REACHED if self._status == 200 else End.UNANSWERED

    def _note(self, data: bytes) -> None:
        if not data:
            return
        if self._is_stream:
            self._measure_stream(data)
        if self._learns:
            self._tail = data if len(data) >= _TAIL_BYTES else self._tail[-_TAIL_BYTES:] + data

    def _measure_stream(self, data: bytes) -> None:
        services, now_s = self._services, self._services.clock_s()
        self._last_piece = data
        if self._last_data_s:
            services.meters.inter_token_s.observe(now_s - self._last_data_s)
        else:
            services.meters.ttft_s.observe(now_s - self._request.began_s)
        self._last_data_s = now_s
        if self._assignment is not None:
            services.dispatcher.controller.streamed(self._assignment, data.count(_EVENT))

    def _learn_usage(self) -> None:
        if not self._learns:
            return
        found = _PROMPT_TOKENS.search(self._tail)
        if found:
            self._services.counter.estimate.correct(*self._prompt_size, int(found[1]))

    def _charge_lines(self, assignment: Assignment) -> bytes:
        return (
            b"x-levelhead-dp-balance-id: %s\r\n"
            b"x-levelhead-front-door: %d/%d\r\n"
            b"x-levelhead-charge-tokens: %d\r\n"
        ) % (
            assignment.dp_balance_id.encode(),
            self._services.slot,
            self._services.epoch,
            assignment.charge_tokens,
        )

    def _head_lines(self) -> bytes:
        if self._assignment is None:
            return b""
        return b"x-levelhead-dp-rank: %d\r\nx-levelhead-dp-balance-id: %s\r\n" % (
            self._assignment.dp_rank,
            self._assignment.dp_balance_id.encode(),
        )

    def _lost_error(self, reason: str) -> RequestError:
        rank = self._assignment.dp_rank if self._assignment else "?"
        _log.warning("DP group %s: %s", rank, reason)
        return GroupLost(f"DP group {rank} was lost: {reason}")

    def _broken_tail(self, error: RequestError) -> bytes:
        """An error event, where what was passed on so far lets it be read as one."""
        end_of_event = b"\n\n\r\n" if self._is_chunked else b"\n\n"
        within = self._last_piece and not self._last_piece.endswith(end_of_event)
        if not self._is_stream or within:
            return b""
        event = b"data: %s\n\n" % error.body()
        return b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event) if self._is_chunked else event


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRequest(f"the body must be a JSON object, it is {type(parsed).__name__}")
    return parsed
