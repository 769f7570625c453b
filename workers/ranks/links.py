"""
The links that load reports travel on: each is a gloo group of two.

A link is between the publisher and one other leader, and nobody else, because a
gloo group fails as a whole.  Seen with torch 2.13 on one host:

* A receive from any source neither notices a peer that is killed nor says so.
* A receive from one source fails at once ("Connection closed by peer") when that
  peer is killed, and so does a send, within milliseconds; other groups of the
  same process go on.
* A receive that times out ("Timed out waiting ... for recv operation") closes
  every connection of its group ("Application timeout caused pair closure"), so
  in a larger group one silent rank would silence all.
* A send waits for the matching receive; nothing piles up.  While the other side
  is stopped (SIGSTOP) it waits, and when that is continued it goes on.  If it
  times out first, the link is lost, for the other side too.
* A group of two is made within milliseconds once both sides are there.  One whose
  other side never comes fails after its time-out, and leaves no thread.
* Whatever waits in torch lets other Python threads run.

So a link that waits longer than REPORT_TIMEOUT is given up, and whoever sends
makes another (see workers.ranks.door).  Groups of plain data parallelism share
nothing else, so there is no world group.  DP attention, whose ranks compute
together, will have its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from ipaddress import ip_address
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo, Store

from workers.errors import LinkLost

JOIN_TIMEOUT = timedelta(seconds=5)
REPORT_TIMEOUT = timedelta(minutes=1)
_TAG = 0
_SOURCE_LINE = re.compile(r"^\[[^\]]*\] ")


class Side(IntEnum):
    """Rank of a side in the link's group."""

    PUBLISHER = 0
    LEADER = 1


class Link:
    """
    One side of a connection; both give it the same name, which is used once.

    The constructor waits for the other side, at most JOIN_TIMEOUT; each call
    takes a CPU tensor of int64 and waits, at most REPORT_TIMEOUT.  They raise
    LinkLost if the other side did not come, or is gone.
    """

    def __init__(self, store: Store, name: str, side: Side) -> None:
        self._other = 1 - side
        try:
            group = ProcessGroupGloo(PrefixStore(name, store), side, len(Side), JOIN_TIMEOUT)
        except RuntimeError as error:
            raise LinkLost(_cause(error)) from error
        self._group = cast(dist.ProcessGroup, group)  # its stub lacks send and recv

    def send(self, words: torch.Tensor) -> None:
        """Send words; returns when the other side has taken them."""
        self._wait(lambda: self._group.send([words], self._other, _TAG))

    def receive(self, words: torch.Tensor) -> None:
        """Fill words with what the other side sends next."""
        self._wait(lambda: self._group.recv([words], self._other, _TAG))

    def _wait(self, start: Callable[[], dist.Work]) -> None:
        try:
            start().wait(REPORT_TIMEOUT)
        except RuntimeError as error:
            raise LinkLost(_cause(error)) from error


def _cause(error: RuntimeError) -> str:
    """Return what gloo says has happened, without its line of source and its advice."""
    first_line = str(error).partition("\n")[0]
    return _SOURCE_LINE.sub("", first_line).partition(". ")[0]


def choose_interface(host: str) -> None:
    """
    Let links of this process use the interface of host, if that is a loopback address.

    gloo takes its network interface from the environment alone, so that is where
    it is set, unless it is there already.
    """
    if _is_loopback(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _loopback_interface() -> str:
    return "lo0" if os.uname().sysname == "Darwin" else "lo"
