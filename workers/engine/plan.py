"""What one step computes: decided by the scheduler, carried out by the runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.engine.request import Output, Request


class Chunk(NamedTuple):
    """One request's part of a step: its positions start .. start + num_new - 1."""

    request: Request
    start: int
    num_new: int
    pages: Sequence[int]

    @property
    def end(self) -> int:
        """Tokens of the request that are computed after the step."""
        return self.start + self.num_new

    @property
    def samples(self) -> bool:
        """Whether the step yields the request's next token."""
        return self.end == self.request.num_tokens

    @property
    def scored(self) -> range:
        """
        Prompt positions whose log-probability the step yields: each is in the logits before it.

        It depends on nothing that a step changes, so plan and commit agree.
        """
        first = self.request.first_scored
        if first is None:
            return range(0)
        return range(max(first, self.start + 1), min(self.end, self.request.num_prompt - 1) + 1)

    @property
    def output_positions(self) -> list[int]:
        """Positions whose logits are wanted: those before scored ones, and the last."""
        before = [position - 1 for position in self.scored]
        return [*before, self.end - 1] if self.samples else before

    @property
    def yields(self) -> bool:
        """Whether the step has a sample for it."""
        return self.samples or bool(self.scored)

    @property
    def is_prefill(self) -> bool:
        """Whether it computes prompt, or outputs that a retraction lost."""
        return self.start < self.request.num_prompt or self.num_new > 1


class Plan(NamedTuple):
    """
    What one step computes.

    failed: requests that ended while it was made, for want of room.
    """

    chunks: tuple[Chunk, ...]
    num_prefill_tokens: int
    failed: tuple[Output, ...]

    @property
    def token_ids(self) -> list[int]:
        """Those tokens, chunk by chunk."""
        ids: list[int] = []
        for chunk in self.chunks:
            ids += chunk.request.tokens(chunk.start, chunk.end)
        return ids

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.num_new for chunk in self.chunks)
