"""
An engine's model: one DP group with a paged KV cache, told by sums alone.

    waiting ──admit──► prefilling ──last chunk──► decoding ──last token──► ended
       ▲       └──────── nothing to compute ────────►│
       └────────────────── retracted ────────────────┘

A step decodes one token of each decoding request and computes the prompts of
prefilling ones, first come first, in what is left of the step's token budget;
the last chunk of a prompt gives its request's first token.  If it does not mix,
a step that computes prompts decodes nothing.  Admission is first come first
served.  If the pages that growing requests need are not free, those with the
fewest output tokens are retracted: they wait in front, and compute all they had
anew.  A request in a decode pool comes with its KV: there is nothing to compute
unless it was retracted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from balancer.prefix_index import Change, PrefixEvent
from balancer.simulation.decode_batch import DecodeBatch
from balancer.simulation.job import Job
from balancer.simulation.prefix_cache import PrefixCache
from shm.load import Ended


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What each group has room for."""

    kv_capacity_tokens: int = 800_000
    page_size: int = 64
    """Tokens in a page of its KV; those of the prefix cache are the trace's."""
    max_running_requests: int = 1024
    max_queued_requests: int = 1 << 40
    max_step_tokens: int = 8192
    """Tokens that one step computes at most, decoded ones included."""
    cache_tokens: int = 1_000_000
    """Prompt tokens that its prefix cache keeps."""

    @property
    def num_pages(self) -> int:
        """Pages of its KV."""
        return self.kv_capacity_tokens // self.page_size


class SimulatedGroup:
    """One life of one group.  `on_prefix` hears what its prefix cache stores and evicts."""

    def __init__(
        self,
        limits: GroupLimits,
        cache: PrefixCache,
        cache_page_size: int,
        on_prefix: Callable[[PrefixEvent], None],
        *,
        computes_prompts: bool,
        mixes: bool = True,
    ) -> None:
        """`mixes`: whether it decodes in steps that compute prompts."""
        self.limits = limits
        self.num_steps = 0
        self.prefilling_tokens = 0
        """Prompt tokens, computed or not, of prefilling requests."""
        self.waiting_tokens = 0
        self.uncached_tokens = 0
        """To be computed, of waiting and prefilling requests."""
        self._prefilling_uncached = 0  # the same, of prefilling requests alone
        self.step_prefill_tokens = 0
        """Computed in the step under way; 0 if none is."""
        self.last_prefill_tokens = 0
        """Computed in the last step that ended."""
        self.accepted_tokens = 0
        self.accepted_requests = 0
        self.ended = Ended(0, 0)
        """Of those accepted."""
        self._computes_prompts, self._mixes = computes_prompts, mixes
        self.is_decoding = True
        """Whether the step under way decodes."""
        self._cache, self._cache_page_size = cache, cache_page_size
        self._on_prefix = on_prefix
        self._free_pages = limits.num_pages
        self._waiting: deque[Job] = deque()
        self._prefilling: deque[Job] = deque()
        self.decoding = DecodeBatch(limits.page_size)
        self._growing = 0  # pages that the step under way has taken for decoding requests
        self._begun: list[Job] = []  # entered the step under way with their KV
        self._computed: list[Job] = []  # whose last chunk is in the step under way

    @property
    def num_running(self) -> int:
        """Decoding and prefilling."""
        return len(self.decoding) + len(self._prefilling) + len(self._computed)

    @property
    def num_waiting(self) -> int:
        """Accepted, and not yet admitted, or retracted."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.decoding or self._waiting or self._prefilling)

    @property
    def holding_tokens(self) -> int:
        """KV tokens of running requests and prompt tokens of waiting ones."""
        return self.decoding.kv_tokens + self.prefilling_tokens + self.waiting_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens of running requests whose keys and values are there."""
        return self.decoding.kv_tokens + self.prefilling_tokens - self._prefilling_uncached

    def accept(self, job: Job, charge_tokens: int) -> bool:
        """Count the charge; False: refused, it can never fit."""
        self.accepted_tokens += charge_tokens
        self.accepted_requests += 1
        if self._pages(job.most_tokens) + 1 > self.limits.num_pages:
            self.ended = self.ended.plus(int(job.dp_balance_id, 16))
            return False
        job.uncached_tokens = self._to_compute(job) if self._computes_prompts else 0
        self._queue(job)
        self._waiting.append(job)
        return True

    def begin_step(self) -> None:
        """Make room, admit, and choose what the step computes."""
        growing = self.decoding.num_growing
        if growing > self._free_pages:
            growing = self._retract()
        elif self._waiting:
            self._admit()
            growing = self.decoding.num_growing
        self.is_decoding = self._mixes or not self._prefilling
        if self.is_decoding:
            self._growing = growing
            self._free_pages -= growing
        self.step_prefill_tokens = self._compute() if self._prefilling else 0

    def end_step(self) -> tuple[list[Job], list[Job]]:
        """Return who produced the first token since it was admitted, and who ended."""
        self.num_steps += 1
        self._growing = 0
        self.last_prefill_tokens, self.step_prefill_tokens = self.step_prefill_tokens, 0
        first: list[Job] = []
        if self.is_decoding:
            self.decoding.step()
            first, self._begun = self._begun, []
        for job in self._computed:
            self.prefilling_tokens -= job.num_tokens
            job.num_produced += 1
            self.decoding.enter(job)
            first.append(job)
        self._computed.clear()
        ended = self.decoding.take_ended()
        for job in ended:
            self._free_pages += self._pages(job.num_tokens)
            self.ended = self.ended.plus(int(job.dp_balance_id, 16))
        return first, ended

    def lose_all(self) -> list[Job]:
        """The group died; return whom it had."""
        return [*self._waiting, *self._prefilling, *self._computed, *self.decoding]

    def check_integrity(self) -> None:
        """All sums are what the requests add up to."""
        self.decoding.check_integrity()
        prefilling = [*self._prefilling, *self._computed]
        assert self.prefilling_tokens == sum(job.num_tokens for job in prefilling)
        assert self.waiting_tokens == sum(job.num_tokens for job in self._waiting)
        to_compute = sum(job.uncached_tokens for job in (*prefilling, *self._waiting))
        assert self.uncached_tokens == to_compute
        assert self._prefilling_uncached == sum(job.uncached_tokens for job in prefilling)
        num_tokens = [
            j.request.prompt_tokens + self.decoding.num_produced(j) for j in self.decoding
        ]
        num_tokens += [job.num_tokens + 1 for job in prefilling]
        taken = sum(map(self._pages, num_tokens)) + self._growing
        assert self._free_pages == self.limits.num_pages - taken >= 0

    # Admission and retraction

    def _admit(self) -> None:
        waiting, most = self._waiting, self.limits.max_running_requests
        while waiting and self.num_running < most:
            job = waiting[0]
            needed = self._pages(job.num_tokens + 1)
            if self.num_running and needed + self.num_running > self._free_pages:
                return  # those that run may each need a page before any of them ends
            waiting.popleft()
            self.waiting_tokens -= job.num_tokens
            self.uncached_tokens -= job.uncached_tokens
            self._start(job)

    def _start(self, job: Job) -> None:
        matched = self._matched(job)
        if job.first_s is None:
            job.cached_tokens = matched
        if not self._computes_prompts and not job.num_produced:
            job.uncached_tokens = 0
            self._store(job)
            self._free_pages -= self._pages(job.num_tokens)
            self.decoding.enter(job)
            self._begun.append(job)
            return
        job.uncached_tokens = job.num_tokens - matched
        self.uncached_tokens += job.uncached_tokens
        self._prefilling_uncached += job.uncached_tokens
        self.prefilling_tokens += job.num_tokens
        self._free_pages -= self._pages(job.num_tokens + 1)
        self._prefilling.append(job)

    def _retract(self) -> int:
        """Retract until those that grow have room; return how many still do."""
        for job in self.decoding.fewest_first():
            if self.decoding.num_growing <= self._free_pages:
                break
            self.decoding.retract(job)
            self._free_pages += self._pages(job.num_tokens)
            job.uncached_tokens = self._to_compute(job)
            self._queue(job)
            self._waiting.appendleft(job)
        return self.decoding.num_growing

    def _queue(self, job: Job) -> None:
        self.waiting_tokens += job.num_tokens
        self.uncached_tokens += job.uncached_tokens

    # Computing

    def _compute(self) -> int:
        """Choose chunks, first come first; return how many tokens the step computes."""
        num_decoded = len(self.decoding) if self.is_decoding else 0
        budget = left = max(1, self.limits.max_step_tokens - num_decoded)
        while self._prefilling and left:
            job = self._prefilling[0]
            taken = min(left, job.uncached_tokens)
            job.uncached_tokens -= taken
            self.uncached_tokens -= taken
            self._prefilling_uncached -= taken
            left -= taken
            if not job.uncached_tokens:
                self._computed.append(self._prefilling.popleft())
                self._store(job)
        return budget - left

    # Pages

    def _pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.limits.page_size)

    def _matched(self, job: Job) -> int:
        """Prompt tokens that need not be computed: all but one at most."""
        size = self._cache_page_size
        if not size:
            return 0
        most = (job.request.prompt_tokens - 1) // size
        return min(self._cache.match(job.request.page_digests), most) * size

    def _to_compute(self, job: Job) -> int:
        return job.num_tokens - self._matched(job)

    def _store(self, job: Job) -> None:
        stored, evicted = self._cache.insert(job.request.page_digests)
        if stored:
            self._on_prefix(PrefixEvent(Change.STORED, stored))
        if evicted:
            self._on_prefix(PrefixEvent(Change.EVICTED, evicted))
