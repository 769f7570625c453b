"""
What is asked of a proxy: the cases of the proxy benchmark.

    name        body    answer                          load
    n1k_c1      1 KB    one JSON object                 1 connection, closed loop
    n1k_c32     1 KB    one JSON object                 32 connections, closed loop
    n32k_c32    32 KB   one JSON object                 32 connections, closed loop
    o500_1k     1 KB    one JSON object                 500 requests/s, open loop
    s0_c32      1 KB    64 SSE chunks, no pauses        32 connections, closed loop
    sd_c32      1 KB    64 SSE chunks, one each 20 ms   32 connections, closed loop
    sd_c256     1 KB    64 SSE chunks, one each 20 ms   256 connections, closed loop

CPU per request depends on the shape of the load: a saturated event loop
handles several messages each time it wakes, an idle one only one.  So compare
within a case, never across cases.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache

NUM_CHUNKS = 64
_PACE_MS = 20
_NUM_BODIES = 32
_TEXT = (
    "the model reads every word of this prompt once and answers with a few more of its own "
    "because nobody here looks at what it says while we only count how long it takes to say so"
)


@dataclass(frozen=True)
class Answer:
    """What every mock worker says: num_chunks None is one JSON object, else a stream."""

    num_chunks: int | None = None
    pace_ms: int | None = None  # None: the chunks follow each other at once


@dataclass(frozen=True)
class Case:
    """A kind of request, a kind of answer, and how the requests arrive."""

    name: str
    body_bytes: int
    num_connections: int
    answer: Answer = Answer()
    requests_per_s: int | None = None  # None: closed loop, each connection as fast as it can
    window_s: float = 3.0
    quick_window_s: float = 0.5

    def describe(self) -> str:
        """The case in words."""
        answer = "one JSON object"
        if self.answer.num_chunks is not None:
            pace = self.answer.pace_ms
            answer = f"{self.answer.num_chunks} chunks, "
            answer += "no pauses" if pace is None else f"one each {pace} ms"
        loop = "closed loop" if self.requests_per_s is None else f"{self.requests_per_s}/s"
        kib = self.body_bytes // 1024
        return f"{kib} KB -> {answer}; {self.num_connections} connections, {loop}"


@cache
def bodies(case: Case, seed: int = 0) -> tuple[bytes, ...]:
    """Distinct chat requests of exactly body_bytes each, so that no cache sees just one."""
    rng = random.Random(seed)
    return tuple(_body(case, rng) for _ in range(_NUM_BODIES))


def _body(case: Case, rng: random.Random) -> bytes:
    request: dict[str, object] = {
        "model": "bench",
        "messages": [{"role": "user", "content": ""}],
        "max_tokens": NUM_CHUNKS,
        "stream": case.answer.num_chunks is not None,
    }
    room = case.body_bytes - len(_compact(request))
    text = " ".join(rng.choices(_TEXT.split(), k=room // 4))[:room]
    request["messages"] = [{"role": "user", "content": text.ljust(room, ".")}]
    return _compact(request)


def _compact(request: dict[str, object]) -> bytes:
    return json.dumps(request, separators=(",", ":")).encode()


_BURST = Answer(num_chunks=NUM_CHUNKS)
_PACED = Answer(num_chunks=NUM_CHUNKS, pace_ms=_PACE_MS)

CASES = {
    case.name: case
    for case in (
        Case("n1k_c1", 1024, 1),
        Case("n1k_c32", 1024, 32),
        Case("n32k_c32", 32 * 1024, 32),
        Case("o500_1k", 1024, 32, requests_per_s=500),
        Case("s0_c32", 1024, 32, _BURST),
        Case("sd_c32", 1024, 32, _PACED, window_s=3.5),
        Case("sd_c256", 1024, 256, _PACED, window_s=3.5),
    )
}
QUICK_CASES = ("n1k_c32", "n32k_c32", "sd_c32")
