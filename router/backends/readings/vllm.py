"""
vLLM's `/metrics`: one line of each gauge for each DP rank, by the label `engine`.

KV is told as the part of its blocks that is in use.  A running request has filled its
last block in part, so as many tokens less one are not counted for each: what is told
here is held for certain.  What waits is told as a number of requests, without tokens.
"""

from __future__ import annotations

import math

from router.backends.readings.prometheus_text import samples
from router.backends.readings.reading import Answers, Reading, count_of, malformed, missing

_PATH = "/metrics"
PATHS = (_PATH,)
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_USAGES = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # until 0.10 the latter
_CONFIG = "vllm:cache_config_info"
_PAGE = "block_size"


def readings(answers: Answers) -> dict[int, Reading]:
    """By DP rank.  Raises ReadingError."""
    body = answers[_PATH]
    if body is None:
        raise missing(f"no {_PATH}")
    text = body.decode(errors="replace")
    running, waiting = _by_rank(text, _RUNNING), _by_rank(text, _WAITING)
    usage = next(filter(None, (_by_rank(text, name) for name in _USAGES)), {})
    if not running.keys() == waiting.keys() == usage.keys() or not running:
        raise missing(f"{_RUNNING}, {_WAITING} and {_USAGES[0]} are not told of the same ranks")
    caches = _caches(text)
    return {
        rank: _reading(running[rank], waiting[rank], usage[rank], *caches.get(rank, (0, 0)))
        for rank in running
    }


def _reading(running: float, waiting: float, usage: float, capacity: int, page: int) -> Reading:
    if usage > 1 or running % 1 or waiting % 1:
        raise malformed(f"{running} running, {waiting} waiting, {usage} of KV in use")
    used = round(usage * capacity / max(1, page)) * page
    held = max(0, used - round(running) * max(0, page - 1))
    return Reading(round(running), round(waiting), held, used, capacity)


def _by_rank(text: str, name: str) -> dict[int, float]:
    try:
        told = {int(each.labels.get("engine", "0")): each.value for each in samples(text, name)}
    except ValueError as error:
        raise malformed(f"{name}: {error}") from None
    for value in told.values():
        if not math.isfinite(value) or value < 0:
            raise malformed(f"{name} is {value}")
    return told


def _caches(text: str) -> dict[int, tuple[int, int]]:
    """Capacity of each rank's KV, and the size of a page, in tokens.  Raises ReadingError."""
    try:
        told = samples(text, _CONFIG)
        return {
            int(labels.get("engine", "0")): (_capacity(labels, len(told)), _page(labels))
            for labels, _ in told
        }
    except (KeyError, ValueError) as error:
        raise malformed(f"{_CONFIG}: {error!r}") from None


def _capacity(labels: dict[str, str], num_ranks: int) -> int:
    """Each rank's line has the blocks of all of them: 0.32 was seen to tell 728 for 2 times 364."""
    told = labels.get("kv_cache_size_tokens")
    if told is not None:
        return count_of({_CONFIG: int(told)}, _CONFIG)
    capacity = int(labels["num_gpu_blocks"]) // num_ranks * _page(labels)
    return count_of({_CONFIG: capacity}, _CONFIG)


def _page(labels: dict[str, str]) -> int:
    return count_of({_PAGE: int(labels[_PAGE])}, _PAGE)
