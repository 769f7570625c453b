"""
Decides what the next step computes.  No torch, no clock, no chance.

A step has one budget of tokens.  Running requests that decode come first, one
token each; the chunked prompt goes on with what is left; then waiting requests
are admitted, in the order of `workers.engine.waiting`, as long as there are
tokens, seats and pages.  The first for whom there is no room holds back those
behind it.  Whoever the budget cuts becomes the chunked one, so there is at most
one.  An admitted request starts after its longest cached prefix and has pages
for all the tokens that it holds.

A waiting request whose next page somebody is computing already is passed over
until that page is cached: a prefix that many have in common is computed once.

When a decode finds no page, requests are retracted, the one of the lowest
priority first, of those the one with the fewest outputs, of those the latest:
it loses its pages, to the cache if they are full, and goes to the head of the
queue.  The one at the other end of that order is never retracted for another's
sake, so some request always gets to its end.

`plan` reserves, `commit` records; every plan is committed or failed before the
next one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from workers.engine.foresight import foresee
from workers.engine.growth import GrowthEstimate
from workers.engine.holdings import Holdings
from workers.engine.page_tables import PageTables
from workers.engine.pages import PagePool
from workers.engine.plan import Chunk, Plan
from workers.engine.prefix_cache import NoCache, PrefixCache
from workers.engine.request import FinishReason, Output, Request, Sample, State
from workers.engine.totals import Totals
from workers.engine.waiting import Order, WaitingQueue
from workers.errors import NeverFits, QueueFull, RequestRefused


class Limits(NamedTuple):
    """What a group takes on."""

    max_running_requests: int
    max_queued_requests: int
    max_step_tokens: int

    @property
    def max_requests(self) -> int:
        """Running and waiting requests that it takes before it refuses."""
        return self.max_running_requests + self.max_queued_requests


class Scheduler:
    """The waiting and the running requests of a group.  Without a cache, no prefix is kept."""

    def __init__(
        self,
        limits: Limits,
        pool: PagePool,
        cache: PrefixCache | None = None,
        order: Order = Order(),  # noqa: B008 - a tuple of constants
        growth: GrowthEstimate | None = None,
    ) -> None:
        self.limits = limits
        self.pool = pool
        self.cache: PrefixCache = NoCache() if cache is None else cache
        self.tables = PageTables(pool, self.cache)
        self.growth = growth or GrowthEstimate()
        self.waiting = WaitingQueue(order, self.tables)
        self._requests: dict[int, Request] = {}
        self._running: list[Request] = []  # in the order of admission
        self.totals = Totals()
        self._left: list[Request] = []
        self.refuses: Callable[[], RequestRefused] | None = None  # says why nobody is let in

    @property
    def num_requests(self) -> int:
        """Running and waiting."""
        return len(self._requests)

    @property
    def is_idle(self) -> bool:
        """Whether no request is left."""
        return not self._requests

    def add(self, request: Request) -> None:
        """Queue a request.  Raises QueueFull or NeverFits, or what refuses says."""
        assert request.num_prompt, "an empty prompt has no next token"
        if self.refuses is not None:
            raise self.refuses()  # a new one each time: it keeps the frames that it went through
        if len(self._requests) >= self.limits.max_requests:
            raise QueueFull(len(self._requests), self.limits.max_requests)
        if request.num_tokens > self.pool.capacity_tokens:
            raise NeverFits(request.num_tokens, self.pool.capacity_tokens)
        self._requests[request.request_id] = request
        self.waiting.add(request)

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

    def foresee(self, plan: Plan) -> list[Chunk]:
        """Return the decodes that follow a plan not yet committed; see workers.engine.foresight."""
        return foresee(plan, self._running, self.tables)

    def commit(self, plan: Plan, samples: Iterable[Sample]) -> list[Output]:
        """Record what a step computed; samples: one for each chunk that yields any, in order."""
        yielding = [chunk for chunk in plan.chunks if chunk.yields]
        for chunk in plan.chunks:
            chunk.request.num_computed = chunk.end
            chunk.request.account.computed(chunk.start, chunk.end)
            if chunk.is_prefill:
                self.tables.store(chunk.request)
        self.growth.decay()
        outputs = []
        for chunk, sample in zip(yielding, samples, strict=True):
            if chunk.scored:
                chunk.request.score(chunk.scored.start, sample.prompt_logprobs)
            if sample.token_id is not None:
                outputs.append(self._commit_sample(chunk.request, sample, sample.token_id))
        return outputs

    def fail(self, plan: Plan, error: RequestRefused) -> list[Output]:
        """End the requests of a step that could not be computed; what they hold is not kept."""
        requests = [chunk.request for chunk in plan.chunks]
        for request in requests:
            request.num_computed = 0
        return self._fail(requests, error)

    def holdings(self) -> Holdings:
        """What the group holds now."""
        prefilling = (r for r in self._running if not r.is_decoding)
        return Holdings(
            holding_tokens=sum(r.num_tokens for r in self._requests.values()),
            running_requests=len(self._running),
            waiting_requests=len(self.waiting),
            waiting_uncached_tokens=self.waiting.num_uncached_tokens
            + sum(r.num_uncomputed for r in prefilling),
            kv_used_tokens=sum(r.num_computed for r in self._running),
        )

    def take_left(self) -> list[Request]:
        """Return who has left since the last call."""
        left, self._left = self._left, []
        return left

    def check_integrity(self) -> None:
        """Raise AssertionError unless requests, states and pages agree."""
        self.tables.check_integrity()
        assert len(self._requests) == len(self.waiting) + len(self._running)
        assert all(r.state is State.RUNNING for r in self._running)
        assert all(r.state is State.WAITING and not r.num_computed for r in self.waiting)
        assert not any(self.tables.pages(r) for r in self.waiting)
        assert self.cache.num_locks == len(self._running)
        assert sum(not r.is_decoding for r in self._running) <= 1, "two chunked requests"

    def _chunk(self, request: Request, max_tokens: int) -> Chunk:
        num_new = min(request.num_uncomputed, max_tokens)
        return Chunk(request, request.num_computed, num_new, self.tables.pages(request))

    def _grow_decodes(self) -> list[Output]:
        """
        Give every decode a slot for its newest token, at the cost of others if need be.

        Only a request larger than the whole cache cannot be helped.  So one
        that is retracted can always come back.
        """
        capacity = self.pool.capacity_tokens
        outgrown = [r for r in self._running if r.num_tokens > capacity]
        failed = [o for r in outgrown for o in self._fail([r], NeverFits(r.num_tokens, capacity))]
        for request in tuple(self._running):
            while (
                request.state is State.RUNNING
                and request.is_decoding
                and not self.tables.grow(request, request.num_tokens)
            ):
                self._retract(
                    min(reversed(self._running), key=lambda r: (r.priority, r.num_outputs))
                )
        return failed

    def _prefills(self, budget: int) -> list[Chunk]:
        chunks = []
        chunked = next((r for r in self._running if not r.is_decoding), None)
        if chunked is not None and budget:
            chunks.append(self._chunk(chunked, budget))
            budget -= chunks[-1].num_new
        if not self._running:
            self.growth.reset()
        for request in self._candidates() if budget else ():
            if not budget:
                break
            if self._is_computed_by(request, [chunk.request for chunk in chunks]):
                if self.waiting.is_urgent(request):
                    break
            elif self._admit(request):
                chunks.append(self._chunk(request, budget))
                budget -= chunks[-1].num_new
            else:
                break
        return chunks

    def _candidates(self) -> list[Request]:
        has_seat = len(self._running) < self.limits.max_running_requests
        return self.waiting.in_order() if has_seat and self.waiting else []

    def _is_computed_by(self, request: Request, prefilling: Sequence[Request]) -> bool:
        """Whether one of those will compute the first page that the request lacks."""
        if not self.cache.keeps or not prefilling:
            return False
        end = self.tables.num_cached_tokens(request) + self.pool.page_size
        if end > request.max_cached_tokens:
            return False
        wanted = request.tokens(0, end)
        return any(r.num_tokens >= end and r.tokens(0, end) == wanted for r in prefilling)

    def _admit(self, request: Request) -> bool:
        """Make a waiting request a running one, if there is a seat and room for it."""
        if len(self._running) >= self.limits.max_running_requests:
            return False
        num_cached = self.tables.open(request)
        if self._missing_with(request) > self.tables.num_available:
            self.tables.close(request)
            return False
        self.tables.grow(request, request.num_tokens)
        request.num_computed = num_cached
        request.account.found(num_cached)
        request.state = State.RUNNING
        self.waiting.admit(request)
        self._running.append(request)
        return True

    def _missing_with(self, request: Request) -> int:
        """Pages that are needed if the request runs: alone its own, else with all growth."""
        if not self._running:
            return self.tables.missing(request, request.num_tokens)
        together = (*self._running, request)
        return sum(self.tables.missing(r, self.growth.expected_tokens(r)) for r in together)

    def _retract(self, request: Request) -> None:
        self._running.remove(request)
        self._release(request)
        request.state = State.WAITING
        self.waiting.put_back(request)
        self.growth.jump(self._running)
        request.account.num_retractions += 1

    def _commit_sample(self, request: Request, sample: Sample, token_id: int) -> Output:
        output = Output(request.request_id, num_cached=request.account.num_cached)
        if not request.num_outputs:
            output = output._replace(prompt_logprobs=tuple(request.prompt_logprobs))
        if not request.max_new_tokens:
            output = output._replace(text=request.end(FinishReason.LENGTH))
        else:
            text = request.append(token_id)
            output = output._replace(token_id=token_id, text=text, logprobs=sample.logprobs)
        if request.finish_reason is not None:
            request.account.check_complete()
            self._leave(request)
        return output._replace(finish_reason=request.finish_reason)

    def _leave(self, request: Request) -> None:
        """The one place where a request leaves, whatever the reason."""
        del self._requests[request.request_id]
        self._left.append(request)
        self.totals = self.totals.plus(request.account, request.num_outputs)
        if request.state is State.RUNNING:
            self._running.remove(request)
            self._release(request)
        else:
            self.waiting.remove(request)
        request.state = State.FINISHED

    def _release(self, request: Request) -> None:
        self.tables.close(request)
        request.num_computed = 0

    def _fail(self, requests: Sequence[Request], error: RequestRefused) -> list[Output]:
        for request in requests:
            self._leave(request)
        return [Output(request.request_id, error=error) for request in requests]
