"""
Whether an engine heeds the rank that it is asked for: one token is computed on each, and seen.

    vllm     the rank's counter of prompt tokens grows
    sglang   the answer says who computed it: meta_info.dp_rank

An engine that does not heed it spreads requests by itself, and books for each of its ranks
would be about nothing.  Where it cannot be seen (another key, a model that generates nothing),
that is said too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any

import httpx

from router.backends.addressing import rank_header
from router.backends.backend import BackendGroup, Kind
from router.backends.readings.prometheus_text import samples

_PROMPT = "level"
_LIMIT_S = 30.0  # of a first request, for which an engine may compile something
_COUNTED = "vllm:prompt_tokens_total"
_MAX_LOOKS = 20
_PAUSE_S = 0.1


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
        """Of all those ranks of one engine: the worst that was seen."""
        seen = [await self._of(group, model) for group in groups]
        return next((each for each in (Heed.NO, Heed.UNSEEN) if each in seen), Heed.YES)

    async def _of(self, group: BackendGroup, model: str) -> Heed:
        try:
            if group.kind is Kind.VLLM:
                return await self._by_counters(group, model)
            return await self._by_answer(group)
        except (httpx.HTTPError, ValueError):
            return Heed.UNSEEN

    async def _by_counters(self, group: BackendGroup, model: str) -> Heed:
        before = await self._counters(group)
        await self._post(
            group, "/v1/completions", {"model": model, "prompt": _PROMPT, "max_tokens": 1}
        )
        grown: set[int] = set()
        for _ in range(_MAX_LOOKS):  # they are told once a step, or later
            now = await self._counters(group)
            grown |= {rank for rank, count in now.items() if count > before.get(rank, 0)}
            if group.engine_rank in grown:
                return Heed.YES
            await self._sleep(_PAUSE_S)
        return Heed.NO if grown else Heed.UNSEEN

    async def _by_answer(self, group: BackendGroup) -> Heed:
        body = {"text": _PROMPT, "sampling_params": {"max_new_tokens": 1}}
        answer = await self._post(group, "/generate", body)
        meta = answer.get("meta_info") if isinstance(answer, dict) else None
        rank = meta.get("dp_rank") if isinstance(meta, dict) else None
        if rank is None:
            return Heed.UNSEEN
        return Heed.YES if rank == group.engine_rank else Heed.NO

    async def _post(self, group: BackendGroup, path: str, body: dict[str, Any]) -> Any:
        name, value = rank_header(group.kind, group.engine_rank or 0)
        headers = {name.decode(): value.decode()}
        answer = await self._client.post(
            group.url + path, json=body, headers=headers, timeout=_LIMIT_S
        )
        answer.raise_for_status()
        return answer.json()

    async def _counters(self, group: BackendGroup) -> dict[int, float]:
        answer = await self._client.get(group.url + "/metrics", timeout=_LIMIT_S)
        answer.raise_for_status()
        counts: dict[int, float] = {}
        for labels, value in samples(answer.text, _COUNTED):
            rank = int(labels.get("engine", "0"))
            counts[rank] = counts.get(rank, 0) + value
        return counts
