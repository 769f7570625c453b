"""
A leader's part in the load gather, from its step loop to the segment.

    every leader:   Newest ─► ReportSender ─► the publisher's door
    and waits:      lock ─► take over: segment, door, term ─► Publisher, for good

The thread that waits for the lock is the one that then publishes, so nobody
writes who does not hold it.  Until a publisher is found, a leader keeps its
newest report.

A leader that cannot take over (no space for its term, no port, no descriptor
left) gives the lock to the next and tries again after a pause, because what is
short for one is short for all: were it fatal, each leader would end in turn.
Fatal is what is wrong with the segment.

It starts once the leader serves: one that hangs while it loads, when nobody yet
asks whether it answers, must not hold the lock.  Rank 0, the usual publisher, is
given a head start over others that are ready at the same time, so that an
instance does not start with one after the other.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from shm.errors import InvalidRecord, TornRead
from shm.load import LoadReader, LoadReport, LoadSnapshot, LoadWriter
from workers.engine.meter import GroupId
from workers.errors import InvalidConfig, LinkLost
from workers.ranks.door import Door, join
from workers.ranks.gather import Peer, ReportReceivers, ReportSender
from workers.ranks.newest import Newest
from workers.ranks.publisher import Publisher
from workers.ranks.term import SEAL_BYTES, Term, wait_for_lock
from workers.ranks.thread import OnFatal, start_thread

logger = logging.getLogger("levelhead.workers.gather")

TP0 = 0
HEAD_START_S = 2.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


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
    What the step loop hands its reports to.

    start: starts its threads.  put: replaces what was handed over before, and never waits.
    bind: a socket bound to a free port, for the store.
    """

    def __init__(
        self,
        place: Place,
        bind: Callable[[], socket.socket],
        on_fatal: OnFatal,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._place = place
        self._bind = bind
        self._sleep = sleep
        self._on_fatal = on_fatal
        self._newest = Newest()
        self.won = threading.Event()
        """Set once this leader publishes itself."""
        self._lock: BinaryIO | None = None

    def put(self, report: LoadReport) -> None:
        """Replace what was handed over before; never waits."""
        self._newest.put(report)

    def start(self) -> None:
        """Begin to send, and to wait for the lock."""
        ReportSender(self._newest, self._find, self.won, self._on_fatal).start()
        start_thread("publisher", self._succeed, self._on_fatal)

    def _find(self) -> Peer | None:
        term = other_publisher(self._place)
        if term is None:
            return None
        try:
            link = join(term)
        except LinkLost as error:
            logger.debug("group %d, term %d: %s", term.dp_rank, term.term, error)
            return None
        logger.info("load reports go to group %d, term %d", term.dp_rank, term.term)
        return link

    def _succeed(self) -> None:
        if self._place.group.dp_rank != TP0:
            self._sleep(HEAD_START_S)
        pause_s = FIRST_PAUSE_S
        while (publisher := self._try_to_take_over(is_first=pause_s == FIRST_PAUSE_S)) is None:
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self.won.set()
        publisher.run()

    def _try_to_take_over(self, *, is_first: bool) -> Publisher | None:
        """Wait for the lock; None if that was in vain, and then somebody else may have it."""
        with ExitStack() as undo:
            try:
                lock = undo.enter_context(wait_for_lock(self._place.run_dir))
                publisher = self._take_over(undo)
            except (OSError, RuntimeError) as error:  # of the system's, or of torch's store
                logger.log(
                    logging.WARNING if is_first else logging.DEBUG,
                    "group %d cannot publish the load reports and will try again: %s",
                    self._place.group.dp_rank,
                    error,
                )
                return None
            undo.pop_all()
        self._lock = lock
        return publisher

    def _take_over(self, undo: ExitStack) -> Publisher:
        """Return the publisher, once leaders can join.  For the holder of the lock."""
        place = self._place
        known = last_reports(place.instance, place.instance_epoch)
        writer = LoadWriter.attach(place.instance, place.dp_size, place.num_front_doors)
        undo.callback(writer.close)
        listener = undo.enter_context(self._bind())
        listener.listen()
        term = _next_term(place, listener)
        door = Door(listener, term)
        undo.callback(door.close)
        term.write(place.run_dir)
        ReportReceivers(
            self._newest, door, place.dp_size, place.num_front_doors, self._on_fatal
        ).start()
        logger.info("group %d publishes the load reports, term %d", term.dp_rank, term.term)
        return Publisher(self._newest, writer, known, time.monotonic_ns)


def other_publisher(place: Place) -> Term | None:
    """Return the term in which another leader publishes; None if there is no such."""
    term = Term.read(place.run_dir)
    return None if term is None or term.group == place.group else term


def _next_term(place: Place, listener: socket.socket) -> Term:
    last = Term.read(place.run_dir)
    host, port = listener.getsockname()[:2]
    seal = secrets.token_hex(SEAL_BYTES)
    return Term(1 if last is None else last.term + 1, *place.group, host, port, seal)


def last_reports(instance: str, instance_epoch: int) -> tuple[LoadReport, ...]:
    """
    Return what is published.

    Raises SegmentError, or InvalidConfig for the segment of another epoch.
    """
    reader = LoadReader.attach(instance)
    try:
        if reader.epoch != instance_epoch:
            raise InvalidConfig(
                f"--instance-epoch is {instance_epoch}; the load segment of "
                f"{instance} has {reader.epoch}"
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
