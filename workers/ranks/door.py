"""
Where leaders get their links to the publisher: a store that it opens for its term.

The store has the rounds in which leaders join (workers.ranks.rounds), and under
each link's name what gloo needs to make it; all of it under the term's name, so
that a port which another instance took over leads to nobody.

A leader that dies before its link is made costs the publisher a thread for a few
seconds, and nobody else anything.

A store's client does one thing at a time, so each link has a client of its own.
While the publisher is stopped (SIGSTOP) a client waits for STORE_TIMEOUT or twice
that, also if the publisher is killed meanwhile; then the leader looks again.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from functools import partial

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from workers.errors import LinkLost
from workers.ranks.links import Link, Side
from workers.ranks.rounds import Rounds, join_round
from workers.ranks.term import Term

STORE_TIMEOUT = timedelta(seconds=2)
_WAIT = timedelta(hours=1)


class Door:
    """
    The publisher's side.

    listener: bound and listening at term's host and port; it is the store's from now on.
    """

    def __init__(self, listener: socket.socket, term: Term) -> None:
        self._term = term
        self._master = dist.TCPStore(  # type: ignore[attr-defined]  # public, but not in its stubs
            term.host,
            term.port,
            is_master=True,
            timeout=STORE_TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        self._store = PrefixStore(term.name, self._master)
        self._rounds = Rounds(self._store, partial(wait_for_key, self._store))

    def close(self) -> None:
        """Let nobody in any more, and free the port; for one that no thread waits at."""
        del self._rounds, self._store, self._master  # torch ends a store with its last reference

    def next_round(self) -> list[str]:
        """Wait for leaders; return the names of the links that they want.  For one thread."""
        return self._rounds.next()

    def open(self, name: str) -> Link:
        """Make a link.  For any thread.  Raises LinkLost if the leader does not come."""
        return Link(_client(self._term), name, Side.PUBLISHER, self._term.seal)


def wait_for_key(store: Store, key: str, limit: timedelta = _WAIT) -> None:
    """Wait until key is in store, however often the limit of one wait is over."""
    while True:
        try:
            return store.wait([key], limit)
        except dist.DistStoreError:
            continue  # nobody came in all that time


def join(term: Term) -> Link:
    """
    Return a link to the publisher of term.  Raises LinkLost if it cannot be reached.

    torch tries for long, and noisily, to connect to a port where nobody listens.
    That is what a publisher that has died looks like, so it is found out before.
    """
    try:
        socket.create_connection((term.host, term.port), STORE_TIMEOUT.total_seconds()).close()
        store = _client(term)
        name = join_round(store)
    except (OSError, RuntimeError) as error:
        raise LinkLost(str(error)) from error
    return Link(store, name, Side.LEADER, term.seal)


def _client(term: Term) -> Store:
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            term.host, term.port, timeout=STORE_TIMEOUT, wait_for_workers=False
        )
    except RuntimeError as error:
        raise LinkLost(str(error)) from error
    return PrefixStore(term.name, store)
