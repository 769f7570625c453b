"""
What all reports of a round say of the last step: the same, for all have computed it together.

A group that joins with an empty batch has no step of its own, and would go on to tell of one
that is long over; and the clocks of ranks begin and end a step at different moments.  Who reads
reports finds out by alike times that groups wait for each other (balancer.cost_model), and
takes a step's time and its prompt tokens to be of the same step.  So rank 0 writes into each
report, before it publishes it:

    num_steps             steps that all ranks have computed
    step_time_ns          of the last one, the slowest rank's
    step_prefill_tokens   what that group computed of prompts in it
"""

from __future__ import annotations

from collections.abc import Sequence

from shm.load import LoadReport
from workers.lockstep.row import StepRow


class CommonStep:
    """Belongs to rank 0; its calls come with each gather, in order."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._step_ns = 0
        self._prefill_tokens: Sequence[int] = ()
        """Of each rank, in the last step that is over."""
        self._computing: Sequence[int] | None = None
        """The same, of the step that the last rows began; None if they began none."""

    def reports(self, rows: Sequence[StepRow]) -> list[LoadReport]:
        """The rows' reports, as others are to see them."""
        if self._computing is not None:
            self._num_steps += 1
            self._step_ns = max(row.timing.step_ns for row in rows)
            self._prefill_tokens = self._computing
        is_step = any(row.work.num_tokens for row in rows)
        self._computing = [row.work.prefill_tokens for row in rows] if is_step else None
        prefill_tokens = self._prefill_tokens or [0] * len(rows)
        return [
            row.report._replace(
                num_steps=self._num_steps,
                step_time_ns=self._step_ns,
                step_prefill_tokens=tokens,
            )
            for row, tokens in zip(rows, prefill_tokens, strict=True)
            if row.report is not None
        ]
