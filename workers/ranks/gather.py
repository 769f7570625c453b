"""
The load gather: every leader's newest report to TP0, without a collective.

    step loop ─put─► ReportSender ════ link ════► ReportReceivers ─put─► Publisher ─► segment
    step loop of TP0 ──────────────────────────────────────────────put──────┘

Groups of plain data parallelism take steps of different lengths, and in a
collective each would wait for the slowest.  So each leader sends when it has
something new, and only the newest: what it was handed while a send was under
way replaces what waited before.

TP0 has one receiving thread for each other leader.  When one's connection is
lost, its thread says so once and ends; its last report stands, and grows old
for all to see.  Nobody else notices.

Threads sleep on a condition or in the socket; none of them polls.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from shm.load import LoadReport
from workers.ranks.process_group import Link

logger = logging.getLogger("levelhead.workers.gather")

MIN_PUBLISH_INTERVAL_S = 0.001


class ReportSink(Protocol):
    """What the step loop hands its reports to.  put never waits."""

    def put(self, report: LoadReport) -> None:
        """Replace what was handed over before."""
        ...


class Writer(Protocol):
    """What publishes; shm.load.LoadWriter is one."""

    def publish(self, reports: Sequence[LoadReport], published_ns: int) -> None:
        """Make these the current reports."""
        ...


class Newest:
    """
    The newest report of each group, until somebody takes them.

    Any thread puts; one thread takes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reports: dict[int, LoadReport] = {}

    def put(self, report: LoadReport) -> None:
        """Replace the group's report, and wake who takes."""
        with self._changed:
            self._reports[report.dp_rank] = report
            self._changed.notify()

    def take(self) -> list[LoadReport]:
        """Wait until there is something; return it, and forget it."""
        with self._changed:
            self._changed.wait_for(lambda: self._reports)
            reports, self._reports = self._reports, {}
            return list(reports.values())


class ReportSender:
    """A leader's side: sends its group's newest report to TP0."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._newest = Newest()
        self.put = self._newest.put

    def start(self) -> None:
        """Start the sending thread; it ends when TP0 cannot be reached any more."""
        threading.Thread(target=self._run, name="report-sender", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                for report in self._newest.take():
                    self._link.send(torch.tensor(report.to_words(), dtype=torch.int64))
        except RuntimeError as error:
            logger.warning("load reports are not published any more, TP0 is gone: %s", error)


class ReportReceivers:
    """TP0's side: one thread for each other leader."""

    def __init__(self, links: Mapping[int, Link], num_front_doors: int, sink: ReportSink) -> None:
        self._links = links
        self._num_words = LoadReport.num_words(num_front_doors)
        self._sink = sink

    def start(self) -> None:
        """Start the receiving threads."""
        for rank, link in self._links.items():
            name = f"report-receiver-{rank}"
            threading.Thread(target=self._run, args=(rank, link), name=name, daemon=True).start()

    def _run(self, rank: int, link: Link) -> None:
        words = torch.empty(self._num_words, dtype=torch.int64)
        try:
            while True:
                link.receive(words)
                self._sink.put(LoadReport.from_words(words.tolist()))
        except RuntimeError as error:
            logger.warning("rank %d sends no load reports any more: %s", rank, error)


class Publisher:
    """
    The one writer of the load segment.

    Publishes all reports known so far whenever one of them is new, and at most
    once per MIN_PUBLISH_INTERVAL_S.  clock_ns: time.monotonic_ns or a fake.
    """

    def __init__(self, writer: Writer, clock_ns: Callable[[], int]) -> None:
        self._writer = writer
        self._clock_ns = clock_ns
        self._newest = Newest()
        self._known: dict[int, LoadReport] = {}
        self.put = self._newest.put

    def start(self) -> None:
        """Start the publishing thread."""
        threading.Thread(target=self._run, name="publisher", daemon=True).start()

    def publish(self) -> None:
        """Wait for new reports and publish them with the others."""
        for report in self._newest.take():
            self._known[report.dp_rank] = report
        self._writer.publish(list(self._known.values()), self._clock_ns())

    def _run(self) -> None:
        while True:
            self.publish()
            time.sleep(MIN_PUBLISH_INTERVAL_S)
