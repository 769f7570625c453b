"""What an emulated step costs: the simulator's formula, and its defaults (`levelhead simulate`)."""

from __future__ import annotations

from typing import NamedTuple

from workers.engine.plan import Plan

_LEAST = (1e-3, 0.0, 0.0, 0.0)
_MOST = 1e6


class StepShare(NamedTuple):
    """
    What one rank has to compute in a step.

    kv_tokens: of the requests in it, those that the step adds included: all are read.
    """

    kv_tokens: int
    requests: int
    prefill_tokens: int

    @classmethod
    def of(cls, plan: Plan) -> StepShare:
        """The share of a plan that is not empty."""
        kv_tokens = sum(chunk.end for chunk in plan.chunks)
        return cls(kv_tokens, len(plan.chunks), plan.num_prefill_tokens)


class StepCost(NamedTuple):
    """
    Milliseconds of a step: base + a * KV tokens + b * requests + c * computed prompt tokens.

    With a barrier the base comes once, and the rest from the rank whose rest is largest.
    """

    base_ms: float = 25.0
    per_token_ms: float = 26e-6
    per_request_ms: float = 0.075
    per_prefill_token_ms: float = 0.1

    @classmethod
    def parse(cls, text: str) -> StepCost:
        """Four numbers between commas; the first is more than 0.  Raises ValueError."""
        values = [float(part) for part in text.split(",")]
        if len(values) != len(_LEAST):
            raise ValueError(f"{text!r} has {len(values)} numbers, not {len(_LEAST)}")
        if not all(low <= value <= _MOST for low, value in zip(_LEAST, values, strict=True)):
            raise ValueError(f"{text!r}: allowed are {_LEAST[0]} to {_MOST:g}, then 0 to {_MOST:g}")
        return cls(*values)

    def own_ms(self, share: StepShare) -> float:
        """What a share adds to the base."""
        return (
            self.per_token_ms * share.kv_tokens
            + self.per_request_ms * share.requests
            + self.per_prefill_token_ms * share.prefill_tokens
        )
