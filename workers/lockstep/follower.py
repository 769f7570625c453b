"""
A rank that shares the attention of a DP group that another one leads.

    leader     plan ─► row ─┬► gather ─► words of the plan ─┬► the same pass ─► sample, answer
    follower   zeros ─► row ┘                               └► the same pass ─► gather ...

It has no scheduler, no requests and no HTTP server.  Which tokens are computed, and in which
slots of its cache its heads' keys and values lie, the leader tells before each pass.
While the set pauses it waits in the gather, to which the leaders' heartbeats come.

It leaves when the leaders do, and never before: they need its heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.engine.runner import ModelRunner
from workers.lockstep.pass_exchange import ComputingRanks
from workers.lockstep.plan_words import NO_PLAN, PlanReader, SentPlan
from workers.lockstep.row import NOTHING, StepRow, Timing
from workers.lockstep.row_gather import gather_rows
from workers.model.row_exchange import Collectives

_ROW = StepRow(NOTHING, Timing(), is_leaving=True, num_plan_words=0, report=None)


class Follower:
    """
    Everything happens in the thread that runs it.

    rows: over which rows are gathered, plans: over which the leader's come, both on the CPU.
    """

    def __init__(
        self,
        inner: ModelRunner,
        rows: Collectives,
        plans: Collectives,
        computing: ComputingRanks,
        num_front_doors: int,
    ) -> None:
        self._inner = inner
        self._rows = rows
        self._computing = computing
        self._plans = plans
        self._leader = rows.rank - plans.rank
        self._num_front_doors = num_front_doors
        self._reader = PlanReader()

    def run(self) -> None:
        """Compute until all leave.  Raises RankLost, or what a pass raises: all is over then."""
        self._inner.warm_up(exchange=self._computing.first_exchange())
        while True:
            rows = gather_rows(self._rows, _ROW, self._num_front_doors)
            if any(row.work.num_tokens for row in rows):
                self._compute(rows)
            if all(row.is_leaving for row in rows):
                return

    def _compute(self, rows: Sequence[StepRow]) -> None:
        plan = self._receive(rows[self._leader].num_plan_words)
        exchange = self._computing.exchange([row.work for row in rows])
        self._inner.follow(plan.places, plan.token_ids, exchange)

    def _receive(self, num_words: int) -> SentPlan:
        if not num_words:
            return NO_PLAN
        words = torch.zeros(num_words, dtype=torch.int64)
        self._plans.broadcast(words)
        return self._reader.read(words.tolist())
