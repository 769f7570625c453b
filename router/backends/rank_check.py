"""
Whether an engine heeds the rank that it is asked for: tokens are computed on each, and seen.

Both kinds are asked at `/v1/completions`, and the rank's own counter of prompt tokens grows:

    vllm     vllm:prompt_tokens_total, by its label `engine`
    sglang   sglang:realtime_tokens_total, by its label `dp_rank`, with --enable-metrics

Each rank is asked twice in a row, because an engine that takes turns would meet every rank
that is asked for in order.  One that does not heed it spreads requests by itself, and books
for each of its ranks would be about nothing.  Where it cannot be seen (another key, a model
that generates nothing), that is said too.  Requests of others make counters grow as well:
while there are many, an engine that does not heed its ranks may pass.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import NamedTuple

import httpx

from router.backends.addressing import rank_header
from router.backends.backend import BackendGroup, Kind
from router.backends.inquiry import Answer, NoAnswer, inquire
from router.backends.readings.prometheus_text import samples

_log = logging.getLogger("levelhead.serve")
_PATH = "/v1/completions"
_PROMPT = "level"
_LIMIT_S = 30.0  # of a first request, for which an engine may compile something
_MAX_LOOKS = 20
_PAUSE_S = 0.1
_TIMES = 2


class _Counter(NamedTuple):
    metric: str
    label: str


_COUNTERS = {
    Kind.VLLM: _Counter("vllm:prompt_tokens_total", "engine"),
    Kind.SGLANG: _Counter("sglang:realtime_tokens_total", "dp_rank"),
}


class Heed(Enum):
    """What was seen."""

    YES = "yes"
    NO = "no"
    UNSEEN = "unseen"


class RankCheck:
    """Asks over one client."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._sleep = sleep

    async def of(self, groups: Sequence[BackendGroup], model: str) -> Heed:
        """Of those ranks of one engine, in order: the first that is not seen to be heeded."""
        for number, group in enumerate(groups, 1):
            _log.info("%s: DP rank %d of %d is tried", group.url, number, len(groups))
            for _ in range(_TIMES):
                heed = await self._of(group, model)
                if heed is not Heed.YES:
                    return heed
        return Heed.YES

    async def _of(self, group: BackendGroup, model: str) -> Heed:
        try:
            return await self._by_counters(group, model)
        except (NoAnswer, ValueError):
            return Heed.UNSEEN

    async def _by_counters(self, group: BackendGroup, model: str) -> Heed:
        before = await self._counters(group)
        await self._compute(group, model)
        grown: set[int] = set()
        for _ in range(_MAX_LOOKS):  # they are told once a step, or later
            now = await self._counters(group)
            grown |= {rank for rank, count in now.items() if count > before.get(rank, 0)}
            if group.engine_rank in grown:
                return Heed.YES
            await self._sleep(_PAUSE_S)
        return Heed.NO if grown else Heed.UNSEEN

    async def _compute(self, group: BackendGroup, model: str) -> None:
        name, value = rank_header(group.kind, group.engine_rank or 0)
        body = {"model": model, "prompt": _PROMPT, "max_tokens": 1}
        headers = {name.decode(): value.decode()}
        _good(await inquire(self._client, group.url + _PATH, _LIMIT_S, body, headers))

    async def _counters(self, group: BackendGroup) -> dict[int, float]:
        counter = _COUNTERS[group.kind]
        text = _good(await inquire(self._client, group.url + "/metrics", _LIMIT_S))
        counts: dict[int, float] = {}
        for labels, value in samples(text.decode(errors="replace"), counter.metric):
            if counter.label in labels:
                rank = int(labels[counter.label])
                counts[rank] = counts.get(rank, 0) + value
        return counts


def _good(answer: Answer) -> bytes:
    """Its body.  Raises NoAnswer if it is another one."""
    if not answer.is_good:
        raise NoAnswer(f"status {answer.status}")
    return answer.body
