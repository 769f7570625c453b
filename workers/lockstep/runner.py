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
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Sample
from workers.engine.runner import ModelRunner
from workers.errors import PassFailed, RankLost, SetBroken
from workers.lockstep.row import NOTHING, StepRow, Timing, Work
from workers.model.row_exchange import ALONE, Collectives, Shared, StepExchange

T = TypeVar("T")

_EMPTY = Plan((), 0, ())


class Pauses(Protocol):
    """What wakes ranks that wait together; workers.lockstep.bell.Bell is one."""

    def start(self, wake: Callable[[], None]) -> None:
        """Call wake when a pause is over."""

    def pause(self) -> None:
        """All ranks have nothing to do."""

    def ring(self) -> None:
        """This rank leaves the pause, if it is in one."""


class Reports(Protocol):
    """Where reports come from and go to; workers.lockstep.reporting.RowReporting is one."""

    own: LoadReport | None

    def note(self, reports: Sequence[LoadReport]) -> None:
        """All ranks' reports, of one gather."""


class Ranks(NamedTuple):
    """
    What a rank needs to step with others.

    rows: over which rows are gathered, on the CPU.  computing: over which tensors of a pass
    are; may be the same.
    """

    rows: Collectives
    computing: Collectives
    pauses: Pauses
    reports: Reports
    num_front_doors: int


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
        self._clock_ns = clock_ns
        self._timing = Timing()
        self._started_ns = 0
        self._is_leaving = False

    @property
    def looks_ahead(self) -> bool:
        """As the inner one."""
        return self._inner.looks_ahead

    def warm_up(self, wake: Callable[[], None]) -> None:
        """Compute a token, all at the same time.  Raises SetBroken."""
        self._ranks.pauses.start(wake)
        one_each = Shared(self._ranks.computing, [1] * self._ranks.computing.size)
        _unbroken(partial(self._inner.warm_up, exchange=StepExchange(one_each, one_each)))

    def launch(self, plan: Plan) -> Callable[[], list[Sample]]:
        """Begin to compute the plan's chunks, beside the others'.  Raises SetBroken."""
        rows = self._gather(Work.of(plan))
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

    def _gather(self, own: Work) -> list[StepRow]:
        """Exchange rows; all ranks get the same, in their order."""
        ranks = self._ranks
        ranks.pauses.ring()
        self._started_ns = self._clock_ns()
        row = StepRow(own, self._timing, self._is_leaving, 0, ranks.reports.own)
        words = torch.tensor(row.to_words(ranks.num_front_doors), dtype=torch.int64)
        gathered = words.new_empty(ranks.rows.size * len(words))
        ranks.rows.all_gather(gathered, words)
        rows = [StepRow.from_words(each) for each in gathered.view(ranks.rows.size, -1).tolist()]
        ranks.reports.note([row.report for row in rows if row.report is not None])
        return rows

    def _compute(self, plan: Plan, rows: Sequence[StepRow]) -> Callable[[], list[Sample]]:
        wait = _unbroken(partial(self._inner.launch, plan, self._exchange(rows)))
        return partial(self._finish, wait)

    def _finish(self, wait: Callable[[], list[Sample]]) -> list[Sample]:
        samples = _unbroken(wait)
        self._timing = Timing(self._clock_ns() - self._started_ns, 0)
        return samples

    def _exchange(self, rows: Sequence[StepRow]) -> StepExchange:
        group = self._ranks.computing
        outputs = [row.work.num_outputs for row in rows]
        tokens = Shared(group, [row.work.num_tokens for row in rows])
        return StepExchange(tokens, Shared(group, outputs) if any(outputs) else ALONE.outputs)


def _unbroken(call: Callable[[], T]) -> T:
    """Return what it returns; whatever else it raises, raise SetBroken."""
    try:
        return call()
    except SetBroken:
        raise
    except Exception as error:
        raise PassFailed(error) from error
