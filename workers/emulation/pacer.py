"""
The barrier of emulated ranks: a thread in rank 0's process, and a Unix socket.

    rank r ──share──► pacer ── all who are in have sent theirs: the round begins
    rank r ◄─release─ pacer ── it is over
    rank r ──rest───► pacer    it has nothing to compute, and nobody waits for it

A rank is in from its first share until it rests or its connection ends, however it
died.  A rank that is alive and silent holds everybody up, as it would in a
collective; the root kills it when it does not answer (router.supervisor).  If this
process dies, the others find nobody, and try until its next life listens.

The thread sleeps until something comes or a round is over; ends are absolute, so what
it is late at waking up does not add up.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from pathlib import Path

from workers.emulation.barrier import Barrier
from workers.emulation.message import MESSAGE_BYTES, RELEASE, Message
from workers.emulation.step_log import StepLog
from workers.errors import InvalidConfig
from workers.ranks.thread import OnFatal, start_thread

_BACKLOG = 1024
_READ_BYTES = 4096
_DEAF_S = 0.1
"""How long nobody is let in after one could not be: the listener stays readable."""


def pacer_path(run_dir: Path) -> Path:
    """Where it listens."""
    return run_dir / "pacer.sock"


def listen(path: Path) -> socket.socket:
    """Take the place of a pacer that died.  Raises InvalidConfig if there cannot be one."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidConfig(f"--run-dir: no socket can be had at {path}: {error}") from error
    return listener


class _Link:
    """A rank's connection; it is nobody's until it has said whose."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self.rank: int | None = None
        self._read = b""

    def messages(self) -> list[Message] | None:
        """What has come; None if it is over."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self._read += data
        whole = len(self._read) // MESSAGE_BYTES * MESSAGE_BYTES
        ready, self._read = self._read[:whole], self._read[whole:]
        starts = range(0, whole, MESSAGE_BYTES)
        return [Message.unpack(ready[start : start + MESSAGE_BYTES]) for start in starts]


class Pacer:
    """Belongs to its thread.  clock_s: time.monotonic or a fake."""

    def __init__(
        self,
        listener: socket.socket,
        barrier: Barrier,
        log: StepLog,
        clock_s: Callable[[], float],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._barrier = barrier
        self._log = log
        self._clock_s = clock_s
        self._links: dict[int, _Link] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._deaf_until_s: float | None = None

    def start(self, on_fatal: OnFatal) -> None:
        """Run for as long as the process lives."""
        start_thread("pacer", self._run, on_fatal)

    def close(self) -> None:
        """Let go of all sockets; for tests, whose processes live on."""
        for key in list((self._selector.get_map() or {}).values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._listener.close()
        self._selector.close()

    def turn(self, longest_s: float | None = None) -> None:
        """Wait until something happens, so long at most; then do what follows from it."""
        self._listen_again()
        for key, _ in self._selector.select(self._timeout_s(longest_s)):
            if key.data is None:
                self._accept()
            else:
                self._hear(key.data)
        closed = self._barrier.close(self._clock_s())
        if closed is not None:
            self._log.write(closed.round)
            for rank in closed.released:
                self._release(rank)

    def _run(self) -> None:
        while True:
            self.turn()

    def _timeout_s(self, longest_s: float | None) -> float | None:
        ends_s = [at_s for at_s in (self._barrier.due_s, self._deaf_until_s) if at_s is not None]
        if not ends_s:
            return longest_s
        left_s = max(0.0, min(ends_s) - self._clock_s())
        return left_s if longest_s is None else min(left_s, longest_s)

    def _listen_again(self) -> None:
        if self._deaf_until_s is not None and self._clock_s() >= self._deaf_until_s:
            self._deaf_until_s = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it went away again
        except OSError:  # there is no descriptor left; it stays in the queue
            self._selector.unregister(self._listener)
            self._deaf_until_s = self._clock_s() + _DEAF_S
            return
        link.setblocking(False)
        self._selector.register(link, selectors.EVENT_READ, _Link(link))

    def _hear(self, link: _Link) -> None:
        messages = link.messages()
        if messages is None:
            self._drop(link)
            return
        for message in messages:
            self._follow(link, message)

    def _follow(self, link: _Link, message: Message) -> None:
        rank, share = message
        before = self._links.get(rank)
        if before is not None and before is not link:
            self._drop(before)  # of the life before, whose end has not been seen yet
        link.rank, self._links[rank] = rank, link
        if share is None:
            self._barrier.leave(rank, self._clock_s())
        else:
            self._barrier.arrive(rank, share, self._clock_s())

    def _release(self, rank: int) -> None:
        link = self._links[rank]
        try:
            link.socket.send(RELEASE)
        except OSError:
            self._drop(link)

    def _drop(self, link: _Link) -> None:
        if link.socket.fileno() < 0:
            return  # dropped before, in this turn
        self._selector.unregister(link.socket)
        link.socket.close()
        if link.rank is not None and self._links.get(link.rank) is link:
            del self._links[link.rank]
            self._barrier.leave(link.rank, self._clock_s())
