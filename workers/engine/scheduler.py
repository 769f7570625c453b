"""
Decides what the next step computes.  No torch, no clock, no chance.

A step has one budget of tokens.  Running requests that decode come first, one
token each; the chunked prompt goes on with what is left; then waiting requests
are admitted in the order of their arrival, as long as there are tokens, seats
and pages.  Whoever the budget cuts becomes the chunked one, so there is at most
one.  An admitted request owns the pages of all the tokens that it holds.

When a decode finds no page, requests are retracted, the one with the fewest
outputs first and of those the latest: it loses its pages and goes to the head
of the queue.  The one with the most outputs is never retracted for another's
sake, so some request always gets to its end.

`plan` reserves, `commit` records; every plan is committed or failed before the
next one is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workers.engine.pages import PagePool
from workers.engine.request import FinishReason, Output, Request, Sample, State
from workers.errors import NeverFits, QueueFull, RequestRefused


class Chunk(NamedTuple):
    """One request's part of a step: its positions start .. start + num_new - 1."""

    request: Request
    start: int
    num_new: int
    pages: Sequence[int]

    @property
    def end(self) -> int:
        """Tokens of the request that are computed after the step."""
        return self.start + self.num_new

    @property
    def samples(self) -> bool:
        """Whether the step yields the request's next token."""
        return self.end == self.request.num_tokens


class Plan(NamedTuple):
    """
    What one step computes.

    failed: requests that ended while it was made, for want of room.
    """

    chunks: tuple[Chunk, ...]
    num_prefill_tokens: int
    failed: tuple[Output, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.num_new for chunk in self.chunks)


class Limits(NamedTuple):
    """What a group takes on."""

    max_running_requests: int
    max_queued_requests: int
    max_step_tokens: int

    @property
    def max_requests(self) -> int:
        """Running and waiting requests that it takes before it refuses."""
        return self.max_running_requests + self.max_queued_requests


class Holdings(NamedTuple):
    """What a group holds at one instant."""

    holding_tokens: int
    running_requests: int
    waiting_requests: int
    waiting_uncached_tokens: int
    kv_used_tokens: int


class Scheduler:
    """The waiting and the running requests of a group."""

    def __init__(self, limits: Limits, pool: PagePool) -> None:
        self.limits = limits
        self.pool = pool
        self._requests: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # in the order of admission
        self.num_retracted = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is left."""
        return not self._requests

    def add(self, request: Request) -> None:
        """Queue a request.  Raises QueueFull or NeverFits."""
        assert request.num_prompt, "an empty prompt has no next token"
        if len(self._requests) >= self.limits.max_requests:
            raise QueueFull(len(self._requests), self.limits.max_requests)
        if request.num_tokens > self.pool.capacity_tokens:
            raise NeverFits(request.num_tokens, self.pool.capacity_tokens)
        self._requests[request.request_id] = request
        self._waiting.append(request)

    def abort(self, request_id: int) -> bool:
        """Drop a request in whatever phase it is; whether there was one."""
        request = self._requests.get(request_id)
        if request is not None:
            self._leave(request)
        return request is not None

    def abort_all(self, error: RequestRefused) -> list[Output]:
        """Drop every request, with error as its last word."""
        return self._fail(list(self._requests.values()), error)

    def plan(self) -> Plan:
        """Choose the next step, admitting and retracting as needed."""
        failed = self._grow_decodes()
        decodes = [self._chunk(r, 1) for r in self._running if r.is_decoding]
        prefills = self._prefills(self.limits.max_step_tokens - len(decodes))
        num_prefill_tokens = sum(chunk.num_new for chunk in prefills)
        return Plan((*decodes, *prefills), num_prefill_tokens, tuple(failed))

    def commit(self, plan: Plan, samples: Iterable[Sample]) -> list[Output]:
        """Record what a step computed; samples: one for each chunk that samples, in order."""
        sampling = [chunk.request for chunk in plan.chunks if chunk.samples]
        for chunk in plan.chunks:
            chunk.request.num_computed = chunk.end
        pairs = zip(sampling, samples, strict=True)
        return [self._commit_sample(request, sample) for request, sample in pairs]

    def fail(self, plan: Plan, error: RequestRefused) -> list[Output]:
        """End the requests of a step that could not be computed."""
        return self._fail([chunk.request for chunk in plan.chunks], error)

    def holdings(self) -> Holdings:
        """What the group holds now."""
        requests = self._requests.values()
        prefilling = (r for r in requests if not (r.state is State.RUNNING and r.is_decoding))
        return Holdings(
            holding_tokens=sum(r.num_tokens for r in requests),
            running_requests=len(self._running),
            waiting_requests=len(self._waiting),
            waiting_uncached_tokens=sum(r.num_uncomputed for r in prefilling),
            kv_used_tokens=sum(r.num_computed for r in self._running),
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless requests, states and pages agree."""
        self.pool.check_integrity()
        assert len(self._requests) == len(self._waiting) + len(self._running)
        assert all(r.state is State.RUNNING for r in self._running)
        assert all(r.state is State.WAITING and not r.num_computed for r in self._waiting)
        assert not any(self.pool.table(r.request_id) for r in self._waiting)
        assert not any(self.pool.missing(r.request_id, r.num_computed) for r in self._running)
        owned = sum(len(self.pool.table(r.request_id)) for r in self._running)
        assert owned + self.pool.num_free == self.pool.num_pages
        assert sum(not r.is_decoding for r in self._running) <= 1, "two chunked requests"

    def _chunk(self, request: Request, max_tokens: int) -> Chunk:
        num_new = min(request.num_uncomputed, max_tokens)
        return Chunk(request, request.num_computed, num_new, self.pool.table(request.request_id))

    def _grow_decodes(self) -> list[Output]:
        """
        Give every decode a slot for its newest token, at the cost of others if need be.

        Only a request that owns every page already cannot be helped, and it is alone.
        So one that is retracted can always come back.
        """
        failed: list[Output] = []
        for request in tuple(self._running):
            while (
                request.state is State.RUNNING
                and request.is_decoding
                and not self.pool.grow(request.request_id, request.num_tokens)
            ):
                if len(self._running) == 1:
                    error = NeverFits(request.num_tokens, self.pool.capacity_tokens)
                    failed += self._fail([request], error)
                else:
                    self._retract(min(reversed(self._running), key=lambda r: r.num_outputs))
        return failed

    def _prefills(self, budget: int) -> list[Chunk]:
        chunks = []
        chunked = next((r for r in self._running if not r.is_decoding), None)
        if chunked is not None and budget:
            chunks.append(self._chunk(chunked, budget))
            budget -= chunks[-1].num_new
        while budget and (request := self._admit()) is not None:
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].num_new
        return chunks

    def _admit(self) -> Request | None:
        """
        Make the first of the queue a running one, if there is a seat and room for it.

        Beside others it must leave each of them a page to grow, or it would be
        retracted before it got anywhere.
        """
        if not self._waiting or len(self._running) >= self.limits.max_running_requests:
            return None
        request = self._waiting[0]
        missing = self.pool.missing(request.request_id, request.num_tokens)
        if missing + len(self._running) > self.pool.num_free:
            return None
        self.pool.grow(request.request_id, request.num_tokens)
        request.state = State.RUNNING
        self._running.append(self._waiting.popleft())
        return request

    def _retract(self, request: Request) -> None:
        self._running.remove(request)
        self.pool.release(request.request_id)
        request.num_computed = 0
        request.state = State.WAITING
        self._waiting.appendleft(request)
        self.num_retracted += 1

    def _commit_sample(self, request: Request, sample: Sample) -> Output:
        output = Output(request.request_id, num_cached=request.num_cached)
        if not request.max_new_tokens:
            output = output._replace(text=request.end(FinishReason.LENGTH))
        else:
            text = request.append(sample.token_id)
            output = output._replace(token_id=sample.token_id, text=text, logprobs=sample.logprobs)
        if request.finish_reason is not None:
            self._leave(request)
        return output._replace(finish_reason=request.finish_reason)

    def _leave(self, request: Request) -> None:
        """The one place where a request leaves, whatever the reason."""
        del self._requests[request.request_id]
        queue = self._running if request.state is State.RUNNING else self._waiting
        queue.remove(request)
        self.pool.release(request.request_id)
        request.state = State.FINISHED

    def _fail(self, requests: Sequence[Request], error: RequestRefused) -> list[Output]:
        for request in requests:
            self._leave(request)
        return [Output(request.request_id, error=error) for request in requests]
