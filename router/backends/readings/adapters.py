"""How each kind of engine is read: what is asked, and what is made of the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from router.backends.backend import Kind
from router.backends.readings import llamacpp, loads, vllm
from router.backends.readings.reading import Answers, Reading


class Adapter(NamedTuple):
    """Of one kind."""

    paths: tuple[str, ...]
    readings: Callable[[Answers], dict[int, Reading]]
    """By the engine's own rank; of engines without ranks that is 0.  Raises ReadingError."""


ADAPTERS = {
    Kind.VLLM: Adapter(vllm.PATHS, vllm.readings),
    Kind.SGLANG: Adapter(loads.PATHS, loads.readings),
    Kind.LLAMACPP: Adapter(llamacpp.PATHS, llamacpp.readings),
    Kind.LEVELHEAD: Adapter(loads.PATHS, loads.summed),
}
"""Any other OpenAI server tells nothing, and nothing is missed."""
