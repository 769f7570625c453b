"""
The row that each rank puts into the gather before a step.

    word  0..5    Work: what it has to compute in the step
          6..7    Timing: what became of the step before
          8       1 if its loop has ended, and it only keeps others company
          9       words of the plan that its followers are to get (workers.lockstep.follower)
          10..    its LoadReport; zeros from a rank that leads no group

Who computes how much, and what groups report, comes in one collective.  The ranks shape the step
by the same rows from which rank 0 publishes: nobody decides by figures that others do not see,
and the report costs a few hundred bytes more, and no message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shm.load import LoadReport
from workers.engine.plan import Chunk, Plan


class Work(NamedTuple):
    """
    What one rank computes in a step.

    num_tokens, num_outputs: rows of its token axis, and those whose logits are wanted.
    kv_tokens: of the requests in it, those that the step adds included: all are read.
    attention_pairs: of a new token and one that it sees, over all of them.
    """

    num_tokens: int = 0
    num_outputs: int = 0
    num_requests: int = 0
    kv_tokens: int = 0
    prefill_tokens: int = 0
    attention_pairs: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Work:
        """What a plan asks for."""
        chunks = plan.chunks
        return cls(
            plan.num_tokens,
            sum(len(chunk.output_positions) for chunk in chunks),
            len(chunks),
            sum(chunk.end for chunk in chunks),
            plan.num_prefill_tokens,
            sum(map(_pairs, chunks)),
        )


NOTHING = Work()


class Timing(NamedTuple):
    """
    What became of a rank's step.

    step_ns: from the gather that began it to its samples.
    waited_ns: of that, inside of collectives, where it sends, receives, and waits for others.
    """

    step_ns: int = 0
    waited_ns: int = 0


_NUM_HEAD_WORDS = len(Work._fields) + len(Timing._fields) + 2


class StepRow(NamedTuple):
    """One rank's; report: None from a rank that leads no group, or has nothing to report yet."""

    work: Work
    timing: Timing
    is_leaving: bool
    num_plan_words: int
    report: LoadReport | None

    @staticmethod
    def num_words(num_front_doors: int) -> int:
        """Of a row; LoadReport has a place for each front door."""
        return _NUM_HEAD_WORDS + LoadReport.num_words(num_front_doors)

    def to_words(self, num_front_doors: int) -> list[int]:
        """As integers, as many as every other row."""
        head = [*self.work, *self.timing, int(self.is_leaving), self.num_plan_words]
        words = head if self.report is None else [*head, *self.report.to_words()]
        return words + [0] * (self.num_words(num_front_doors) - len(words))

    @classmethod
    def from_words(cls, words: Sequence[int]) -> StepRow:
        """What to_words wrote."""
        num_work = len(Work._fields)
        is_leaving, num_plan_words = words[_NUM_HEAD_WORDS - 2 : _NUM_HEAD_WORDS]
        reported = words[_NUM_HEAD_WORDS:]
        return cls(
            Work(*words[:num_work]),
            Timing(*words[num_work : _NUM_HEAD_WORDS - 2]),
            bool(is_leaving),
            num_plan_words,
            LoadReport.from_words(reported) if any(reported) else None,
        )


def _pairs(chunk: Chunk) -> int:
    """Token number i of a sequence sees i + 1."""
    return chunk.num_new * chunk.start + chunk.num_new * (chunk.num_new + 1) // 2
