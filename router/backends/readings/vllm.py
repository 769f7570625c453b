"""
vLLM's `/metrics`: one line of each gauge for each DP rank, by the label `engine`.

KV is told as the part of its blocks that is in use.  A running request has filled its
last block in part, so as many tokens less one are not counted for each: what is told
here is held for certain.  What waits is told as a number of requests, without tokens.
"""

from __future__ import annotations

import math

from router.backends.readings.prometheus_text import samples
from router.backends.readings.reading import Answers, Reading, malformed, missing

_PATH = "/metrics"
PATHS = (_PATH,)
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_USAGES = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # until 0.10 the latter
_CONFIG = "vllm:cache_config_info"


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
    blocks = _blocks(text)
    return {
        rank: _reading(running[rank], waiting[rank], usage[rank], *blocks.get(rank, (0, 0)))
        for rank in running
    }


def _reading(running: float, waiting: float, usage: float, num_blocks: int, size: int) -> Reading:
    if usage > 1 or running % 1 or waiting % 1:
        raise malformed(f"{running} running, {waiting} waiting, {usage} of KV in use")
    capacity = num_blocks * size
    used = round(usage * num_blocks) * size
    held = max(0, used - round(running) * max(0, size - 1))
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


def _blocks(text: str) -> dict[int, tuple[int, int]]:
    """Number and size in tokens of each rank's KV blocks.  Raises ReadingError."""
    try:
        return {
            int(told.get("engine", "0")): (int(told["num_gpu_blocks"]), int(told["block_size"]))
            for told, _ in samples(text, _CONFIG)
        }
    except (KeyError, ValueError) as error:
        raise malformed(f"{_CONFIG}: {error!r}") from None
