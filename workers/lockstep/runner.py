"""
Steps that all ranks of a set take together.

    rank 0   plan ─► row ┐         ┌ lay out ─► forward: attention, own rows ┐         ┌ sample
    rank 1   plan ─► row ┼► gather ┤            ... feed-forward, all rows   ┼ ... ...─┤
    rank 2   idle ─► row ┘         └ an empty batch                          ┘         └ nothing

Before each pass all ranks exchange one row each (workers.lockstep.row).  If anybody has
something to compute, all compute: a rank that has not joins with an empty batch, because its
part of the weights is needed.  If nobody has, the set pauses: each rank waits for its own
arrivals, and whoever leaves the pause, for one or for a heartbeat, rings for the others.

A pass that fails in one rank fails in all, since none can go on without the others' part:
SetBroken, which ends the process.  Whoever starts the ranks starts all of them again.

A rank whose loop has ended keeps the others company until all have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch

from shm.load import LoadReport
from workers.engine.batch import Place
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Sample
from workers.engine.runner import ModelRunner
from workers.errors import PassFailed, RankLost, SetBroken
from workers.lockstep.pass_exchange import ComputingRanks
from workers.lockstep.plan_words import PlanWriter
from workers.lockstep.row import NOTHING, StepRow, Timing, Work
from workers.lockstep.row_gather import gather_rows
from workers.model.row_exchange import Collectives

T = TypeVar("T")

_EMPTY = Plan((), 0, ())


class Pauses(Protocol):
    """What wakes ranks that wait together; workers.lockstep.bell.Bell is one."""

    def start(self, wake: Callable[[], None]) -> None:
        """Call wake when a pause is over."""

    def pause(self) -> None:
        """All ranks have nothing to do.  Raises RankLost."""

    def ring(self) -> None:
        """This rank leaves the pause, if it is in one.  Raises RankLost."""


class Reports(Protocol):
    """Where reports come from and go to; workers.lockstep.reporting.RowReporting is one."""

    own: LoadReport | None

    def note(self, rows: Sequence[StepRow]) -> None:
        """All ranks' rows, of one gather."""


class TimedCollectives(Collectives, Protocol):
    """Collectives that know how long this rank has been in them."""

    @property
    def waited_ns(self) -> int:
        """Since the beginning."""


class Ranks(NamedTuple):
    """
    What a rank needs to step with others.

    rows: over which rows are gathered, on the CPU.  computing: over which tensors of a pass
    are; may be the same.  group, plans: the same two, of the ranks that share this one's
    attention, if there are any.
    """

    rows: TimedCollectives
    computing: TimedCollectives
    pauses: Pauses
    reports: Reports
    num_front_doors: int
    group: TimedCollectives | None = None
    plans: TimedCollectives | None = None

    @property
    def waited_ns(self) -> int:
        """How long this rank has been in collectives."""
        kinds = {id(each): each for each in self._all() if each}
        return sum(each.waited_ns for each in kinds.values())

    def _all(self) -> tuple[TimedCollectives | None, ...]:
        return self.rows, self.computing, self.group, self.plans


class LockstepRunner:
    """A ModelRunner in lock step with others.  Calls come from the step loop's thread."""

    def __init__(
        self,
        inner: ModelRunner,
        ranks: Ranks,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._inner = inner
        self._ranks = ranks
        self._computing = ComputingRanks(ranks.computing, ranks.group)
        self._plans = PlanWriter()
        self._clock_ns = clock_ns
        self._timing = Timing()
        self._started_ns = self._waited_before_ns = 0
        self._is_leaving = False

    @property
    def looks_ahead(self) -> bool:
        """As the inner one."""
        return self._inner.looks_ahead

    def warm_up(self, wake: Callable[[], None]) -> None:
        """Compute a token, all at the same time.  Raises SetBroken."""
        self._ranks.pauses.start(wake)
        exchange = self._computing.first_exchange()
        _unbroken(partial(self._inner.warm_up, exchange=exchange))

    def launch(self, plan: Plan) -> Callable[[], list[Sample]]:
        """Begin to compute the plan's chunks, beside the others'.  Raises SetBroken."""
        words = self._words(plan)
        rows = self._gather(Work.of(plan), len(words))
        self._send(words)
        return self._compute(plan, rows)

    def prepare(self, decodes: Sequence[Chunk]) -> None:
        """Lay out what probably follows."""
        self._inner.prepare(decodes)

    def rest(self) -> bool:
        """Join with nothing to compute; whether others have something.  Raises SetBroken."""
        if any(row.work.num_tokens for row in self._join()):
            return True
        self._ranks.pauses.pause()
        return False

    def leave(self) -> None:
        """Keep the others company until all leave; one of them that is gone has left."""
        self._is_leaving = True
        try:
            while not all(row.is_leaving for row in self._join()):
                pass
        except RankLost:
            return

    def stop(self) -> None:
        """A pass comes to its end by itself."""

    def _join(self) -> list[StepRow]:
        """Take part in a step with nothing of one's own."""
        rows = self._gather(NOTHING)
        if any(row.work.num_tokens for row in rows):
            self._compute(_EMPTY, rows)()
        return rows

    def _words(self, plan: Plan) -> list[int]:
        """What followers need to know of it, if there are any."""
        if self._ranks.plans is None:
            return []
        return self._plans.write([Place.of(chunk) for chunk in plan.chunks], plan.token_ids)

    def _send(self, words: Sequence[int]) -> None:
        if self._ranks.plans is not None and words:
            self._ranks.plans.broadcast(torch.tensor(words, dtype=torch.int64))

    def _gather(self, own: Work, num_plan_words: int = 0) -> list[StepRow]:
        """Exchange rows; all ranks get the same, in their order."""
        ranks = self._ranks
        ranks.pauses.ring()
        self._started_ns, self._waited_before_ns = self._clock_ns(), ranks.waited_ns
        row = StepRow(own, self._timing, self._is_leaving, num_plan_words, ranks.reports.own)
        rows = gather_rows(ranks.rows, row, ranks.num_front_doors)
        ranks.reports.note(rows)
        return rows

    def _compute(self, plan: Plan, rows: Sequence[StepRow]) -> Callable[[], list[Sample]]:
        exchange = self._computing.exchange([row.work for row in rows])
        wait = _unbroken(partial(self._inner.launch, plan, exchange))
        return partial(self._finish, wait)

    def _finish(self, wait: Callable[[], list[Sample]]) -> list[Sample]:
        samples = _unbroken(wait)
        self._timing = Timing(
            self._clock_ns() - self._started_ns, self._ranks.waited_ns - self._waited_before_ns
        )
        return samples


def _unbroken(call: Callable[[], T]) -> T:
    """Return what it returns; whatever else it raises, raise SetBroken."""
    try:
        return call()
    except SetBroken:
        raise
    except Exception as error:
        raise PassFailed(error) from error
