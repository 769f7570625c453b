"""
How a request wants its tokens chosen: values, checked once.

The choice itself is in `workers.model.sampling`; nothing here needs torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.model.errors import InvalidSampling

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class SamplingParams:
    """
    The sampling parameters of one request.  Raises InvalidSampling.

    temperature: below GREEDY_BELOW the most probable token is taken.
    top_k: keep the k most probable tokens; 0 keeps all.
    top_p: of those, keep the fewest whose renormalised probabilities reach top_p.
    min_p: keep tokens at least min_p times as probable as the most probable one.
    seed: what the client asked for; None leaves it to the worker.
    max_tokens: None means as many as the context has room for.
    stop: texts that end the output, which is cut before them; MAX_STOPS of them at most.
    stop_token_ids: tokens that end the output, besides the model's own.
    ignore_eos: go on after the model's own end tokens.
    logprobs: None for none; k for the sampled token and the k most probable.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "finite, >= 0")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "in [0, 1]")
        _check("max_tokens", self.max_tokens, (self.max_tokens or 0) >= 0, "0 or more, or null")
        in_range = self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS
        _check("logprobs", self.logprobs, in_range, f"in [0, {MAX_LOGPROBS}], or null")
        _check_stop(self.stop)

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken, without any chance."""
        return self.temperature < GREEDY_BELOW


def _check_stop(stop: tuple[str, ...]) -> None:
    """Each token's text is searched for all of them, so they are few and short."""
    longest, limit = max(map(len, stop), default=0), MAX_STOP_CHARACTERS
    _check("stop", f"{len(stop)} strings", len(stop) <= MAX_STOPS, f"at most {MAX_STOPS}")
    _check("stop", f"a text of {longest} characters", longest <= limit, f"at most {limit} long")
    _check("stop", stop, all(stop), "texts of at least one character")


def _check(field: str, value: object, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise InvalidSampling(field, value, allowed)
