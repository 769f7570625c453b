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

Threads sleep on a condition or in the socket; none of them polls.  If anything
but a lost connection ends one, `on_fatal` is told why: a group whose reports go
nowhere looks idle, or dead, for as long as it lives.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch

from shm.load import LoadReport
from workers.errors import LinkLost

logger = logging.getLogger("levelhead.workers.gather")

MIN_PUBLISH_INTERVAL_S = 0.001

OnFatal = Callable[[BaseException], None]


class ReportSink(Protocol):
    """
    What the step loop hands its reports to.

    start: starts its threads; not before the model is loaded, for a link gives up
    a peer that keeps it waiting.  put: never waits.
    """

    def start(self) -> None:
        """Begin to pass reports on."""
        ...

    def put(self, report: LoadReport) -> None:
        """Replace what was handed over before."""
        ...


class Writer(Protocol):
    """What publishes; shm.load.LoadWriter is one."""

    def publish(self, reports: Sequence[LoadReport], published_ns: int) -> None:
        """Make these the current reports."""
        ...


class Peer(Protocol):
    """A connection; workers.ranks.process_group.Link is one.  Raises LinkLost."""

    def send(self, words: torch.Tensor) -> None:
        """Send words to the other side."""
        ...

    def receive(self, words: torch.Tensor) -> None:
        """Fill words with what the other side sends next."""
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

    def __init__(self, link: Peer, on_fatal: OnFatal) -> None:
        self._link = link
        self._on_fatal = on_fatal
        self._newest = Newest()
        self.put = self._newest.put

    def start(self) -> None:
        """Start the sending thread; it ends when TP0 cannot be reached any more."""
        _start("report-sender", self._run, self._on_fatal)

    def _run(self) -> None:
        try:
            while True:
                for report in self._newest.take():
                    self._link.send(torch.tensor(report.to_words(), dtype=torch.int64))
        except LinkLost as error:
            logger.warning("load reports are not published any more, TP0 is gone: %s", error)


class ReportReceivers:
    """TP0's side: the publisher, and one thread for each other leader that feeds it."""

    def __init__(
        self,
        links: Mapping[int, Peer],
        num_front_doors: int,
        publisher: Publisher,
        on_fatal: OnFatal,
    ) -> None:
        self._links = links
        self._num_words = LoadReport.num_words(num_front_doors)
        self._publisher = publisher
        self._on_fatal = on_fatal
        self.put = publisher.put

    def start(self) -> None:
        """Start publishing and receiving."""
        self._publisher.start()
        for rank, link in self._links.items():
            _start(f"report-receiver-{rank}", partial(self._run, rank, link), self._on_fatal)

    def _run(self, rank: int, link: Peer) -> None:
        words = torch.empty(self._num_words, dtype=torch.int64)
        try:
            while True:
                link.receive(words)
                self.put(LoadReport.from_words(words.tolist()))
        except LinkLost as error:
            logger.warning("rank %d sends no load reports any more: %s", rank, error)


class Publisher:
    """
    The one writer of the load segment.

    Publishes all reports known so far whenever one of them is new, and at most
    once per MIN_PUBLISH_INTERVAL_S.  clock_ns: time.monotonic_ns or a fake.
    """

    def __init__(self, writer: Writer, clock_ns: Callable[[], int], on_fatal: OnFatal) -> None:
        self._writer = writer
        self._on_fatal = on_fatal
        self._clock_ns = clock_ns
        self._newest = Newest()
        self._known: dict[int, LoadReport] = {}
        self.put = self._newest.put

    def start(self) -> None:
        """Start the publishing thread."""
        _start("publisher", self._run, self._on_fatal)

    def publish(self) -> None:
        """Wait for new reports and publish them with the others."""
        for report in self._newest.take():
            self._known[report.dp_rank] = report
        self._writer.publish(list(self._known.values()), self._clock_ns())

    def _run(self) -> None:
        while True:
            self.publish()
            time.sleep(MIN_PUBLISH_INTERVAL_S)


def _start(name: str, run: Callable[[], None], on_fatal: OnFatal) -> None:
    def guarded() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - the outermost frame of the thread
            on_fatal(error)

    threading.Thread(target=guarded, name=name, daemon=True).start()
