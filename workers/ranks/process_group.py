"""
The start of torch.distributed, and the links that load reports travel on.

The world group is for collectives.  A link is a gloo group of TP0 and one other
leader, and nobody else, because a gloo group fails as a whole.  Seen with torch
2.13 on one host, one rank of three killed or silent:

* A receive from any source neither notices a peer that is killed nor says so;
  the others go on.
* A receive from one source fails at once ("Connection closed by peer") when
  that peer is killed, and the others, in the same group, go on.
* A receive that times out ("Timed out waiting ... for recv operation") closes
  every connection of its group ("Application timeout caused pair closure"), so
  one silent rank would silence all.  With links only its own is closed.
* A send to a rank that is gone fails at once, and again each time.
* A send waits for the matching receive; nothing piles up.

So: links, one receiving thread for each, and time-outs that only a rank that is
truly stuck reaches: a lost peer is noticed at once without them, and ranks that
load at different speeds may keep each other waiting for long.

Links are made from the store and not with new_group: with
use_local_synchronization that hung from three ranks on, and without it every
link costs a barrier of all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo, Store
from torch.distributed.rendezvous import rendezvous

from workers.errors import LinkLost

TP0 = 0
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
REPORT_TIMEOUT = timedelta(hours=1)
_TAG = 0


class Link:
    """
    A connection of TP0 and one other rank.

    Each call takes a CPU tensor of int64, waits for the other side, and raises
    LinkLost once that is gone.
    """

    def __init__(self, store: Store, rank: int, leader: int) -> None:
        own, self._other = (0, 1) if rank == TP0 else (1, 0)
        prefixed = PrefixStore(f"reports-{leader}", store)
        group = ProcessGroupGloo(prefixed, own, 2, REPORT_TIMEOUT)
        self._group = cast(dist.ProcessGroup, group)  # its stub lacks send and recv

    def send(self, words: torch.Tensor) -> None:
        """Send words; returns when the other side has taken them."""
        self._wait(lambda: self._group.send([words], self._other, _TAG))

    def receive(self, words: torch.Tensor) -> None:
        """Fill words with what the other side sends next."""
        self._wait(lambda: self._group.recv([words], self._other, _TAG))

    def _wait(self, start: Callable[[], dist.Work]) -> None:
        try:
            start().wait()
        except RuntimeError as error:
            raise LinkLost(str(error)) from error


class World(NamedTuple):
    """
    This rank's place among all ranks.

    links: by the other side's rank.  TP0 has one to each other leader, and each
    of those has one to TP0.
    """

    rank: int
    size: int
    links: Mapping[int, Link]


def join(url: str, rank: int, size: int, host: str) -> World:
    """
    Meet all other ranks at url, written as torch's init_method is.

    Raises RuntimeError (torch's DistError among them) if they are not all there
    within RENDEZVOUS_TIMEOUT.  gloo takes its network interface from the
    environment alone, so that is where it is set, unless it is there already.
    """
    if _is_loopback(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    store, _, _ = next(rendezvous(url, rank, size, timeout=RENDEZVOUS_TIMEOUT))
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=RENDEZVOUS_TIMEOUT
    )
    if rank == TP0:
        return World(rank, size, {other: Link(store, rank, other) for other in range(1, size)})
    return World(rank, size, {TP0: Link(store, rank, rank)})


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _loopback_interface() -> str:
    return "lo0" if os.uname().sysname == "Darwin" else "lo"
