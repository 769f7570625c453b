"""
A rank's side of the pacer (workers.emulation.pacer).

Without a pacer there is no step: a rank that has lost it tries until it finds one, and
then sends its share again.  The step it waits for is then as long as it should be, and
began late.

A rank that is stopped plans nothing more and may be in a round.  Its step loop's thread,
which owns the link, ends it then: the pacer takes that for the rank's end.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from pathlib import Path

from workers.emulation.message import Message
from workers.emulation.step_cost import StepShare

logger = logging.getLogger("levelhead.workers.emulation")

RETRY_S = 0.1


class PacerClient:
    """Connects when there is something to compute; see workers.emulation.pace."""

    def __init__(self, path: Path, dp_rank: int, retry_s: float = RETRY_S) -> None:
        self._path = path
        self._dp_rank = dp_rank
        self._retry_s = retry_s
        self._link: socket.socket | None = None
        self._is_in = False
        self._is_lost = False
        self._stopped = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()

    def wait(self, share: StepShare) -> None:
        """Take part in the next round."""
        while not self._stopped.is_set():
            try:
                self._send(share)
                self._is_in = True
                if self._is_released():
                    return
            except OSError as error:
                self._lose(error)
                self._stopped.wait(self._retry_s)
        self._leave()

    def rest(self) -> None:
        """Nobody is to wait for this rank."""
        if self._stopped.is_set():
            self._leave()
        if not self._is_in:
            return
        self._is_in = False
        try:
            self._send(None)
        except OSError as error:
            self._lose(error)  # and with the link it is out

    def stop(self) -> None:
        """End `wait`, now and for good."""
        if not self._stopped.is_set():
            self._stopped.set()
            os.write(self._wake_writer, b"\0")

    def close(self) -> None:
        """Let go of link and pipe; for tests, whose processes live on."""
        self._leave()
        for end in (self._wake_reader, self._wake_writer):
            os.close(end)

    def _send(self, share: StepShare | None) -> None:
        if self._link is None:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.connect(str(self._path))
            except OSError:
                link.close()
                raise
            self._link = link
            if self._is_lost:
                logger.info("group %d has found the pacer again", self._dp_rank)
            self._is_lost = False
        self._link.sendall(Message(self._dp_rank, share).pack())

    def _is_released(self) -> bool:
        """Wait for the end of the round; False if stopped.  Raises OSError without a pacer."""
        assert self._link is not None
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        poll.poll()
        if self._stopped.is_set():
            return False
        if not self._link.recv(1):
            raise ConnectionResetError("the pacer is gone")
        return True

    def _lose(self, error: OSError) -> None:
        if not self._is_lost:
            logger.warning("group %d has no pacer and waits for one: %s", self._dp_rank, error)
        self._is_lost = True
        self._leave()

    def _leave(self) -> None:
        """End the link, whatever round it is in; the process may live on for long."""
        self._is_in = False
        if self._link is not None:
            self._link.close()
        self._link = None
