"""
A leader's part in the load gather, from its step loop to the segment.

    every leader:   Newest ─► ReportSender ─► the publisher's door
    and waits:      lock ─► take over: segment, door, term ─► Publisher, for good

The thread that waits for the lock is the one that then publishes, so nobody
writes who does not hold it.  Until a publisher is found, a leader keeps its
newest report.  Rank 0, the usual publisher, is given a head start, so that an
instance does not start with another.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from shm.errors import InvalidRecord, TornRead
from shm.load import LoadReader, LoadReport, LoadSnapshot, LoadWriter
from workers.engine.meter import GroupId
from workers.errors import InvalidConfig, LinkLost
from workers.ranks.door import Door, join
from workers.ranks.gather import Peer, ReportReceivers, ReportSender
from workers.ranks.newest import Newest
from workers.ranks.publisher import Publisher
from workers.ranks.term import Term, wait_for_lock
from workers.ranks.thread import OnFatal, start_thread

logger = logging.getLogger("levelhead.workers.gather")

TP0 = 0
HEAD_START_S = 2.0


class ReportSink(Protocol):
    """
    What the step loop hands its reports to.

    start: starts its threads.  put: never waits.
    """

    def start(self) -> None:
        """Begin to pass reports on."""
        ...

    def put(self, report: LoadReport) -> None:
        """Replace what was handed over before."""
        ...


class Place(NamedTuple):
    """Where a leader stands, and what it writes if it publishes."""

    group: GroupId
    dp_size: int
    num_front_doors: int
    instance: str
    instance_epoch: int
    run_dir: Path


class Reporting:
    """
    The sink of a leader's reports.

    bind: a socket bound to a free port, for the store.  The constructor raises
    InvalidConfig or SegmentError if the load segment is not the one to write.
    """

    def __init__(self, place: Place, bind: Callable[[], socket.socket], on_fatal: OnFatal) -> None:
        _last_reports(place)
        self._place = place
        self._bind = bind
        self._on_fatal = on_fatal
        self._newest = Newest()
        self._won = threading.Event()
        self._lock: BinaryIO | None = None
        self.put: Callable[[LoadReport], None] = self._newest.put

    def start(self) -> None:
        """Begin to send, and to wait for the lock."""
        ReportSender(self._newest, self._find, self._won, self._on_fatal).start()
        start_thread("publisher", self._succeed, self._on_fatal)

    def _find(self) -> Peer | None:
        term = Term.read(self._place.run_dir)
        if term is None or term.epoch == self._place.group.epoch:
            return None  # nobody publishes yet, or this leader has just begun to
        try:
            link = join(term)
        except LinkLost as error:
            logger.debug("group %d, term %d: %s", term.dp_rank, term.term, error)
            return None
        logger.info("load reports go to group %d, term %d", term.dp_rank, term.term)
        return link

    def _succeed(self) -> None:
        if self._place.group.dp_rank != TP0:
            time.sleep(HEAD_START_S)
        self._lock = wait_for_lock(self._place.run_dir)
        self._won.set()
        self._take_over().run()

    def _take_over(self) -> Publisher:
        """Return the publisher, once leaders can join.  For the holder of the lock."""
        place = self._place
        known = _last_reports(place)
        writer = LoadWriter.attach(place.instance, place.dp_size, place.num_front_doors)
        listener = self._bind()
        listener.listen()
        term = _next_term(place, listener)
        door = Door(listener, term)
        ReportReceivers(self._newest, door, place.num_front_doors, self._on_fatal).start()
        term.write(place.run_dir)
        logger.info("group %d publishes the load reports, term %d", term.dp_rank, term.term)
        return Publisher(self._newest, writer, known, time.monotonic_ns)


def _next_term(place: Place, listener: socket.socket) -> Term:
    last = Term.read(place.run_dir)
    host, port = listener.getsockname()[:2]
    return Term(1 if last is None else last.term + 1, *place.group, host, port)


def _last_reports(place: Place) -> tuple[LoadReport, ...]:
    """Return what is published.  Raises InvalidConfig for the segment of another epoch."""
    reader = LoadReader.attach(place.instance)
    try:
        if reader.epoch != place.instance_epoch:
            raise InvalidConfig(
                f"--instance-epoch is {place.instance_epoch}; the load segment of "
                f"{place.instance} has {reader.epoch}"
            )
        snapshot = _snapshot(reader)
    finally:
        reader.close()
    return () if snapshot is None else snapshot.reports


def _snapshot(reader: LoadReader) -> LoadSnapshot | None:
    try:
        return reader.snapshot()
    except (TornRead, InvalidRecord) as error:
        logger.warning("what was published before is damaged and is left out: %s", error)
        return None
