"""
Traced requests as HTTP: bodies whose prompts have real prefixes in common, and who sends them.

A page of a prompt is made from its digest, and the digest stands for all before it; so two
prompts have equal tokens exactly as far as their traces have equal pages.  What is not
named is like nothing else.  Token ids are small numbers: they are cheap to read, and say nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import shake_128

from balancer.simulation.traffic import TracedRequest, Traffic

_FIRST_ID, _NUM_IDS = 17, 238
_ID_TEXTS = [str(_FIRST_ID + byte % _NUM_IDS) for byte in range(256)]
_MAX_PAGES = 1 << 16


def body_of(request: TracedRequest, page_size: int, number: int) -> bytes:
    """The body of /v1/completions; number: different for each request."""
    pages = [_page(digest, page_size) for digest in request.page_digests]
    rest = request.prompt_tokens - len(pages) * page_size
    pages += [_tokens(f"rest {number}", rest)] if rest else []
    end = b'],"max_tokens":%d,"ignore_eos":true,"temperature":0}' % request.output_tokens
    return b'{"prompt":[' + b",".join(pages) + end


@lru_cache(_MAX_PAGES)
def _page(digest: int, page_size: int) -> bytes:
    return _tokens(f"page {digest}", page_size)


def _tokens(seed: str, num_tokens: int) -> bytes:
    drawn = shake_128(seed.encode()).digest(num_tokens)
    return ",".join([_ID_TEXTS[byte] for byte in drawn]).encode()


@dataclass
class Driven:
    """What became of the requests.  Times of time.monotonic, in seconds."""

    sent_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    """From when a request was due until it was sent."""
    num_answered: int = 0
    failures: list[str] = field(default_factory=list)

    def window_s(self, num_requests: int, warm_up: float) -> tuple[float, float]:
        """From where more than that share of the requests has arrived until the last has."""
        first = next(n for n in range(num_requests) if (n + 1) / num_requests > warm_up)
        return self.sent_s[first], self.sent_s[-1]


async def drive(
    port: int,
    traffic: Traffic,
    bodies: Sequence[bytes],
    rate_scale: float,
    seed: int,
    pinned_groups: int = 0,
) -> Driven:
    """
    Send everything when the simulator does; return once the last was sent, with the rest cut.

    A request that cannot be sent counts as sent, and as a failure.  What else a client
    raises is raised here, at once.

    Of closed traffic the first num_clients come at their times, and each of the others
    when one is answered.  pinned_groups: to so many groups in turn, by X-Data-Parallel-Rank.
    """
    driver = _Driver(port, bodies, pinned_groups)
    arrivals_s = traffic.arrivals_s(rate_scale, random.Random(f"arrivals {seed}"))
    num_timed = len(bodies) if traffic.num_clients is None else traffic.num_clients
    driver.following.extend(range(num_timed, len(bodies)))
    began_s = time.monotonic()
    tasks = [
        asyncio.create_task(driver.client(began_s + at_s, number))
        for number, at_s in enumerate(arrivals_s[:num_timed])
    ]
    for task in tasks:
        task.add_done_callback(driver.look_at)
    await driver.is_over.wait()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return driver.driven


class _Driver:
    """The clients of one run."""

    def __init__(self, port: int, bodies: Sequence[bytes], pinned_groups: int) -> None:
        self._port = port
        self._bodies = bodies
        self._pinned_groups = pinned_groups
        self.following: deque[int] = deque()
        self.driven = Driven()
        self.is_over = asyncio.Event()
        """All has been sent, or a client is broken."""

    def look_at(self, task: asyncio.Task[None]) -> None:
        """A client has come to its end."""
        if not task.cancelled() and task.exception() is not None:
            self.is_over.set()

    async def client(self, due_s: float, number: int) -> None:
        """One client: its request, and those that follow."""
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await self._ask(number, due_s)
        while self.following:
            await self._ask(self.following.popleft(), time.monotonic())

    async def _ask(self, number: int, due_s: float) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            self._note_sent(due_s)
            self.driven.failures.append(repr(error))
            return
        try:
            request = self._request(number)
            self._note_sent(due_s)
            writer.write(request)
            self._note_answer(await reader.read(-1))
        except OSError as error:
            self.driven.failures.append(repr(error))
        finally:
            writer.close()

    def _request(self, number: int) -> bytes:
        body = self._bodies[number]
        head = "POST /v1/completions HTTP/1.1\r\nhost: levelhead\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        if self._pinned_groups:
            head += f"x-data-parallel-rank: {number % self._pinned_groups}\r\n"
        return f"{head}\r\n".encode() + body

    def _note_sent(self, due_s: float) -> None:
        sent_s = self.driven.sent_s
        sent_s.append(time.monotonic())
        self.driven.late_s.append(sent_s[-1] - due_s)
        if len(sent_s) == len(self._bodies):
            self.is_over.set()

    def _note_answer(self, answer: bytes) -> None:
        self.driven.num_answered += 1
        if not answer.startswith(b"HTTP/1.1 200"):
            self.driven.failures.append(answer[:200].decode(errors="replace"))
