"""How long a step takes, and what rate of traffic fills the groups to a given part."""

from __future__ import annotations

from typing import NamedTuple

from balancer.simulation.traffic import Traffic


class StepTime(NamedTuple):
    """
    Milliseconds of a step: base + a * KV tokens + b * requests + c * prefilled tokens.

    With a barrier the base comes once and the rest from the slowest group.  What
    stands here fits a DeepSeek-V3 of latent attention on a GPU of the H800's class,
    by estimate; only the ratios matter to who waits for whom.
    """

    base_ms: float = 25.0
    per_token_ms: float = 26e-6
    per_request_ms: float = 0.075
    per_prefill_token_ms: float = 0.1

    def group_ms(self, kv_tokens: int, num_requests: int, prefill_tokens: int) -> float:
        """What a group adds to the base."""
        return (
            self.per_token_ms * kv_tokens
            + self.per_request_ms * num_requests
            + self.per_prefill_token_ms * prefill_tokens
        )


class Means(NamedTuple):
    """One request of the traffic, on average."""

    kv_token_steps: float
    """KV tokens that it holds, summed over its steps."""
    steps: float
    prefill_tokens: float
    """Of its prompt, if no cache helps and the group computes prompts."""

    @classmethod
    def of(cls, traffic: Traffic, *, computes_prompts: bool) -> Means:
        """Averages over all requests."""
        asked = traffic.requests
        held = sum(r.output_tokens * (r.prompt_tokens + (r.output_tokens - 1) / 2) for r in asked)
        steps = sum(r.output_tokens for r in asked)
        prompts = sum(r.prompt_tokens for r in asked) if computes_prompts else 0
        return cls(held / len(asked), steps / len(asked), prompts / len(asked))


def rate_for_load(means: Means, step: StepTime, load_tokens: float, num_groups: int) -> float:
    """
    Requests a second that make each of num_groups level groups hold load_tokens on average.

    By Little's law: tokens held = rate * (KV tokens of a request, summed over its
    steps) * time of a step, and that time follows from the tokens held.
    """
    num_requests = load_tokens * means.steps / means.kv_token_steps
    prefill = num_requests / means.steps * means.prefill_tokens
    step_ms = step.base_ms + step.group_ms(round(load_tokens), 0, 0)
    step_ms += step.per_request_ms * num_requests + step.per_prefill_token_ms * prefill
    return num_groups * load_tokens / (means.kv_token_steps * step_ms / 1e3)


def load_of_rate(means: Means, step: StepTime, rate: float, num_groups: int) -> float:
    """
    KV tokens that each group holds on average at that rate; infinite if they cannot keep up.

    The inverse of rate_for_load, which only grows and has a limit.
    """
    per_group = rate / num_groups
    ms_per_token = (
        step.per_token_ms
        + (step.per_request_ms * means.steps + step.per_prefill_token_ms * means.prefill_tokens)
        / means.kv_token_steps
    )
    busy = per_group * means.kv_token_steps * ms_per_token / 1e3
    if busy >= 1:
        return float("inf")
    return per_group * means.kv_token_steps * step.base_ms / 1e3 / (1 - busy)
