"""
Load reports of ranks that compute together: each travels in its rank's row of the step gather.

    step loop ─put─► own report ─► row ─► step gather ─► rows ─note─► Newest ─► Publisher ─► segment
                                                              └────── rank 0 alone ──────┘

No links are needed, and no next publisher: if rank 0 dies, so do all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import BinaryIO

from shm.load import LoadReport, LoadWriter
from workers.lockstep.barrier_totals import BarrierTotals
from workers.lockstep.common_step import CommonStep
from workers.lockstep.row import StepRow
from workers.ranks.newest import Newest
from workers.ranks.publisher import Publisher
from workers.ranks.reporting import Place, last_reports
from workers.ranks.term import wait_for_lock
from workers.ranks.thread import OnFatal, start_thread

logger = logging.getLogger("levelhead.workers.lockstep")


class RowReporting:
    """
    One rank's part.

    publishes: whether it is rank 0, which counts what the barrier costs, too.
    attention_size: ranks of a group.
    """

    def __init__(
        self, place: Place, on_fatal: OnFatal, *, publishes: bool, attention_size: int = 1
    ) -> None:
        self._place = place
        self._on_fatal = on_fatal
        self._publishes = publishes
        self._common_step = CommonStep()
        self.barrier = BarrierTotals(place.dp_size, attention_size) if publishes else None
        self._newest = Newest()
        self._lock: BinaryIO | None = None
        self.own: LoadReport | None = None
        """What the step loop has reported last."""

    def put(self, report: LoadReport) -> None:
        """Replace what was handed over before."""
        self.own = report

    def note(self, rows: Sequence[StepRow]) -> None:
        """All ranks' rows, of one gather."""
        if self.barrier is not None:
            self.barrier.note(rows)
            self._newest.put(*self._common_step.reports(rows))

    def start(self) -> None:
        """Begin to publish, if this is the rank that does."""
        if self._publishes:
            start_thread("publisher", self._publish, self._on_fatal)

    def _publish(self) -> None:
        place = self._place
        self._lock = wait_for_lock(place.run_dir)  # until rank 0's last life is dead for certain
        known = last_reports(place.instance, place.instance_epoch)
        writer = LoadWriter.attach(place.instance, place.dp_size, place.num_front_doors)
        logger.info("group %d publishes the load reports of the set", place.group.dp_rank)
        Publisher(self._newest, writer, known, time.monotonic_ns).run()
