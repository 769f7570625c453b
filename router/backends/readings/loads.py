"""
`/v1/loads`, as SGLang has it and as we do: an object for each DP rank.

    num_total_tokens = num_used_tokens + prompts of waiting requests

SGLang publishes a rank's figures every 15 decode steps, and not at all while it has nothing to
do: they tell the time at which they were published.

In versions of SGLang that tell no max_total_num_tokens, num_total_tokens was the
capacity: such an answer is refused, not misread.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from router.backends.readings.reading import (
    Answers,
    Reading,
    combined,
    count_of,
    malformed,
    missing,
)

_PATH = "/v1/loads"
_OLDEST_S = 3600.0
PATHS = (_PATH,)


def readings(answers: Answers) -> dict[int, Reading]:
    """By DP rank.  Raises ReadingError."""
    body = answers[_PATH]
    if body is None:
        raise missing(f"no {_PATH}")
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"{_PATH}: {error}") from None
    loads = told.get("loads") if isinstance(told, dict) else None
    if not isinstance(loads, list) or not all(isinstance(each, dict) for each in loads):
        raise malformed(f"{_PATH} has no list of loads")
    if not loads:
        raise missing(f"{_PATH} tells of no rank")
    return {count_of(each, "dp_rank"): _reading(each, told.get("timestamp")) for each in loads}


def summed(answers: Answers) -> dict[int, Reading]:
    """All ranks as one: of a server that is one group whatever it has behind it."""
    return {0: combined(readings(answers).values())}


def _reading(load: dict[str, Any], told_at: object) -> Reading:
    capacity = count_of(load, "max_total_num_tokens")
    used = count_of(load, "num_used_tokens")
    if used > capacity:
        raise malformed(f"{used} tokens are used of {capacity}")
    return Reading(
        count_of(load, "num_running_reqs"),
        count_of(load, "num_waiting_reqs"),
        max(used, count_of(load, "num_total_tokens")),
        used,
        capacity,
        _age_ns(load.get("timestamp"), told_at),
    )


def _age_ns(sampled_at: object, told_at: object) -> int:
    """Age of a load that has a time of its own, in an answer that has one; else 0."""
    if not isinstance(told_at, str) or not isinstance(sampled_at, int | float):
        return 0
    try:
        age_s = datetime.fromisoformat(told_at).timestamp() - sampled_at
    except ValueError:
        return 0
    return round(min(max(0.0, age_s), _OLDEST_S) * 1e9)
