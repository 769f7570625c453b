"""
The load gather: every leader's newest report to the publisher, without a collective.

    step loop ─put─► Newest ─► ReportSender ════ link ════► ReportReceivers ─put─┐
    step loop of the publisher's group ─put─► Newest ◄───────────────────────────┘
                                                └─► Publisher ─► segment

Groups of plain data parallelism take steps of different lengths, and in a
collective each would wait for the slowest.  So each leader sends when it has
something new, and only the newest: what it was handed while a send was under
way replaces what waited before.

The publisher has one receiving thread for each link.  When a link is lost, or
something else comes on it than reports of one group, its thread says so, closes
it, and ends; the group's last report stands, and grows old for all to see.
The leader at the other end puts back what it could not send, and looks for the
publisher, the same or the next, until it has a link again.

Threads sleep on a condition or in the socket; only a sender without a link looks
again and again.  If anything but a lost link ends one, `on_fatal` is told why: a
group whose reports go nowhere looks idle, or dead, for as long as it lives.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Protocol

from shm.load import LoadReport
from workers.errors import LinkLost, ReportRefused
from workers.ranks.newest import Newest
from workers.ranks.thread import OnFatal, start_thread

logger = logging.getLogger("levelhead.workers.gather")

LOOK_INTERVAL_S = 0.1


class Peer(Protocol):
    """A connection; workers.ranks.links.Link is one.  Raises LinkLost."""

    def send(self, words: Sequence[int]) -> None:
        """Send words to the other side."""

    def receive(self, num_words: int) -> list[int]:
        """Return what the other side sends next.  Raises ReportRefused if it is no report."""

    def close(self) -> None:
        """Disconnect."""


class Entrance(Protocol):
    """Where leaders come in; workers.ranks.door.Door is one."""

    def next_round(self) -> list[str]:
        """Wait for leaders; return the names of the links that they want."""

    def open(self, name: str) -> Peer:
        """Make a link.  Raises LinkLost if the leader does not come."""


class ReportSender:
    """
    Takes a leader's reports to the publisher, until this leader is the publisher.

    find: a link to the publisher, or None if there is none to be found now.
    won: set once this leader publishes itself.
    """

    def __init__(
        self,
        newest: Newest,
        find: Callable[[], Peer | None],
        won: threading.Event,
        on_fatal: OnFatal,
    ) -> None:
        self._newest = newest
        self._find = find
        self._won = won
        self._on_fatal = on_fatal

    def start(self) -> None:
        """Start the sending thread."""
        start_thread("report-sender", self.run, self._on_fatal)

    def run(self) -> None:
        """Send until this leader publishes itself."""
        while not self._won.is_set():
            link = self._find()
            if link is None:
                self._won.wait(LOOK_INTERVAL_S)
            else:
                with closing(link):
                    self._send_all(link)

    def _send_all(self, link: Peer) -> None:
        while True:
            reports = self._newest.take()
            try:
                for report in reports:
                    link.send(report.to_words())
            except LinkLost as error:
                self._newest.put(*reports)
                logger.warning("the link to the publisher of load reports is lost: %s", error)
                return


class ReportReceivers:
    """The publisher's side: one thread that lets leaders in, and one for each of them."""

    def __init__(
        self,
        newest: Newest,
        entrance: Entrance,
        num_groups: int,
        num_front_doors: int,
        on_fatal: OnFatal,
    ) -> None:
        self._newest = newest
        self._entrance = entrance
        self._num_groups = num_groups
        self._num_words = LoadReport.num_words(num_front_doors)
        self._on_fatal = on_fatal

    def start(self) -> None:
        """Start letting leaders in."""
        start_thread("report-entrance", self._let_in, self._on_fatal)

    def _let_in(self) -> None:
        while True:
            for name in self._entrance.next_round():
                start_thread(f"report-receiver-{name}", partial(self.run, name), self._on_fatal)

    def run(self, name: str) -> None:
        """Receive on one link until it is lost, or something else than reports comes."""
        sender: int | None = None
        try:
            with closing(self._entrance.open(name)) as link:
                while True:
                    report = self._receive(link, sender)
                    sender = report.dp_rank
                    self._newest.put(report)
        except LinkLost as error:
            logger.warning(
                "the link on which %s sent load reports is lost: %s", _name(sender), error
            )
        except ReportRefused as error:
            logger.warning(
                "the link of %s is dropped, for something else than its report came: %s",
                _name(sender),
                error,
            )

    def _receive(self, link: Peer, sender: int | None) -> LoadReport:
        """Return the next report.  sender: whose the one before was."""
        report = LoadReport.from_words(link.receive(self._num_words))
        if not 0 <= report.dp_rank < self._num_groups:
            raise ReportRefused(f"dp_rank {report.dp_rank}, of {self._num_groups} groups")
        if sender not in (None, report.dp_rank):
            raise ReportRefused(f"dp_rank {report.dp_rank}, after {sender}")
        return report


def _name(sender: int | None) -> str:
    return "a leader that had joined" if sender is None else f"group {sender}"
