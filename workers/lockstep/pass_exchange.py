"""
What ranks do with each other's rows in one pass, from the work that each leads.

    world rank      0  1 | 2  3         4 ranks, 2 groups
    tokens          5  . | 2  .         of the groups' batches; followers lead none
    own rows        3  2 | 1  1         workers.model.split_rows
    outputs         1  . | 2  .         logits go to leaders
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.lockstep.row import NOTHING, Work
from workers.model.row_exchange import Alone, Collectives, Shared, StepExchange
from workers.model.split_rows import SplitRows, own_counts

_ONE = Work(num_tokens=1)


class ComputingRanks(NamedTuple):
    """
    Those of one rank's passes.

    all: of the set.  group: those of its DP group, which share heads; None: it has them alone.
    """

    all: Collectives
    group: Collectives | None = None

    def first_exchange(self) -> StepExchange:
        """Of a pass in which each group has one token, and nobody wants logits."""
        size = 1 if self.group is None else self.group.size
        return self.exchange([NOTHING if r % size else _ONE for r in range(self.all.size)])

    def exchange(self, works: Sequence[Work]) -> StepExchange:
        """Of a pass in which ranks lead so much work; all ranks must be given the same."""
        size = 1 if self.group is None else self.group.size
        counts = [n for work in works[::size] for n in own_counts(work.num_tokens, size)]
        outputs = Shared(self.all, [work.num_outputs for work in works])
        if self.group is None:
            return StepExchange(Shared(self.all, counts), outputs, Alone())
        led = works[self.all.rank - self.group.rank]
        return StepExchange(
            Shared(self.all, counts), outputs, SplitRows(self.group, led.num_tokens)
        )
