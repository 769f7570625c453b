"""
llama.cpp's `/slots`, and what waits from its `/metrics`, if that is switched on.

A slot that processes holds its prompt, and what it has produced: in some versions the
second is part of the first, so of what both say the larger counts.
"""

from __future__ import annotations

from typing import Any

import orjson

from router.backends.readings.prometheus_text import samples
from router.backends.readings.reading import Answers, Reading, count_of, malformed, missing

_SLOTS = "/slots"
_METRICS = "/metrics"
PATHS = (_SLOTS, _METRICS)
_CACHE = "n_prompt_tokens_cache"  # not told by earlier versions
_DEFERRED = "llamacpp:requests_deferred"


def readings(answers: Answers) -> dict[int, Reading]:
    """Of the only rank.  Raises ReadingError."""
    body = answers[_SLOTS]
    if body is None:
        raise missing(f"no {_SLOTS}: is it switched off?")
    try:
        slots = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"{_SLOTS}: {error}") from None
    if not isinstance(slots, list) or not all(isinstance(each, dict) for each in slots):
        raise malformed(f"{_SLOTS} is no list of slots")
    busy = [slot for slot in slots if _is_busy(slot)]
    held = sum(map(_held_tokens, busy))
    capacity = sum(count_of(slot, "n_ctx") for slot in slots)
    return {0: Reading(len(busy), _num_waiting(answers[_METRICS]), held, held, capacity)}


def _is_busy(slot: dict[str, Any]) -> bool:
    told = slot.get("is_processing")
    if told is None:
        raise missing("a slot does not tell is_processing")
    if not isinstance(told, bool):
        raise malformed(f"is_processing is {told!r}")
    return told


def _held_tokens(slot: dict[str, Any]) -> int:
    produced = slot.get("next_token")
    if isinstance(produced, list):
        produced = produced[0] if produced else {}
    if not isinstance(produced, dict):
        raise malformed(f"next_token is {produced!r}")
    read = count_of(slot, "n_prompt_tokens_processed") + count_of({_CACHE: 0} | slot, _CACHE)
    return max(count_of(slot, "n_prompt_tokens"), read + count_of(produced, "n_decoded"))


def _num_waiting(metrics: bytes | None) -> int:
    if metrics is None:
        return 0
    try:
        told = samples(metrics.decode(errors="replace"), _DEFERRED)
        return sum(round(sample.value) for sample in told)
    except (ValueError, OverflowError) as error:
        raise malformed(f"{_DEFERRED}: {error}") from None
