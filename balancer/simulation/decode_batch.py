"""
The decoding requests of one group, told by sums alone.

No step looks at all requests.  What each step changes is kept as a sum; who ends,
by the step at which it will; who needs a page, by residue: of requests that
began with t tokens after step s, those with equal (t - s) mod page size cross
into a new page in the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from balancer.simulation.job import Job


class DecodeBatch:
    """Each step decodes a token of each request."""

    def __init__(self, page_size: int) -> None:
        self.kv_tokens = 0
        self._page_size = page_size
        self._clock = 0  # steps so far
        self._jobs: dict[Job, None] = {}  # in the order in which they began
        self._ending: dict[int, list[Job]] = {}  # by end_step
        self._residues = [0] * page_size

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    @property
    def num_growing(self) -> int:
        """Requests that need a page for their next token."""
        return self._residues[-self._clock % self._page_size]

    def num_produced(self, job: Job) -> int:
        """Output tokens so far of a request, in the batch or not."""
        return job.num_produced + (self._clock - job.entry_step if job in self._jobs else 0)

    def fewest_first(self) -> list[Job]:
        """Requests by output tokens."""
        return sorted(self._jobs, key=self.num_produced)

    def enter(self, job: Job) -> None:
        """It has its KV and the pages for it; from now on each step gives a token."""
        job.entry_step = self._clock
        job.end_step = self._clock + job.request.output_tokens - job.num_produced
        self._jobs[job] = None
        self._ending.setdefault(job.end_step, []).append(job)
        self._residues[(job.num_tokens - self._clock) % self._page_size] += 1
        self.kv_tokens += job.num_tokens

    def step(self) -> None:
        """All have one token more."""
        self._clock += 1
        self.kv_tokens += len(self._jobs)

    def take_ended(self) -> list[Job]:
        """Remove those that have their last token, and return them."""
        ended = self._ending.pop(self._clock, [])
        for job in ended:
            self._leave(job)
        return ended

    def retract(self, job: Job) -> None:
        """Remove one before its end; it keeps the tokens that it has produced."""
        self._ending[job.end_step].remove(job)
        self._leave(job)

    def check_integrity(self) -> None:
        """All sums are what the requests add up to."""
        tokens = {job: job.request.prompt_tokens + self.num_produced(job) for job in self}
        assert self.kv_tokens == sum(tokens.values())
        for job, held in tokens.items():
            assert job.most_tokens - held == job.end_step - self._clock > 0
            assert job in self._ending[job.end_step]
        assert sum(map(len, self._ending.values())) == sum(self._residues) == len(self)
        assert self.num_growing == sum(held % self._page_size == 0 for held in tokens.values())

    def _leave(self, job: Job) -> None:
        self._residues[(job.num_tokens - job.entry_step) % self._page_size] -= 1
        job.num_produced += self._clock - job.entry_step
        self.kv_tokens -= job.num_tokens
        del self._jobs[job]
