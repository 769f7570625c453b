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
  times out first, the link is lost, for the other side too: of the two, whoever
  waits next is told "Connection closed by peer".
* One send waits for its own time-out instead: one whose receive was there already,
  and whose connection is closed between the two.  gloo's Pair::signalException
  tells what is queued in tx_ through op.buf only, and this send is an op.ubuf.
  So end 2 to 5 of 100 sends that follow at once upon a receive that has timed out.
* A message shorter than the buffer of who receives is delivered, and leaves the
  rest of the buffer as it was.  A longer one terminates the process that receives
  it, from a thread of gloo's, whatever Python would do about it.
* A group of two is made within milliseconds once both sides are there.  One whose
  other side never comes fails after its time-out, and leaves no thread.
* Whatever waits in torch lets other Python threads run.

So every message of a link has the same length, that of one report and the seal of
the term behind it, in a buffer of its own.  All leaders of an instance have the
size from one root.  A message that is too short ends without the seal, and the
link is dropped.  A length sent ahead would not save a receiver from one that is
too long, since the message after it need not keep to it.

Neither gloo nor the store asks who connects, and the store lists its keys to
anybody on its address.  The seal is in no key, so another local user can make a
link but no report that is believed.  What such a user can do is to break
connections or, with a message that is too long, the publisher; the next leader
takes over then.

A receive is given up after REPORT_TIMEOUT, twice the longest time between two
reports of an idle group; a send after SEND_TIMEOUT, since the publisher is always
receiving.  Whoever sends makes another link then (see workers.ranks.door).  Groups
of plain data parallelism share nothing else, so there is no world group.  DP
attention, whose ranks compute together, has its own (workers.ranks.rank_group).
"""

from __future__ import annotations

import hmac
import os
import re
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import IntEnum
from ipaddress import ip_address
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo, Store

from workers.config import MAX_HEARTBEAT_S
from workers.errors import LinkLost, ReportRefused
from workers.ranks.term import SEAL_BYTES

JOIN_TIMEOUT = timedelta(seconds=5)
SEND_TIMEOUT = timedelta(seconds=5)
REPORT_TIMEOUT = timedelta(seconds=2 * MAX_HEARTBEAT_S)
_TAG = 0
_SEAL = struct.Struct(f"<{SEAL_BYTES // 8}q")
_SEAL_WORDS = SEAL_BYTES // 8
_SOURCE_LINE = re.compile(r"^\[[^\]]*\] ")


class Side(IntEnum):
    """Rank of a side in the link's group."""

    PUBLISHER = 0
    LEADER = 1


_TIMEOUTS = {Side.PUBLISHER: REPORT_TIMEOUT, Side.LEADER: SEND_TIMEOUT}


class Link:
    """
    One side of a connection; both give it the same name, which is used once.

    The constructor waits for the other side, at most JOIN_TIMEOUT; each call
    waits at most timeout, by default as long as side's calls may take.  They raise
    LinkLost if the other side did not come, or is gone.  seal: as in the term.
    Whoever makes a link closes it.
    """

    def __init__(
        self, store: Store, name: str, side: Side, seal: str, timeout: timedelta | None = None
    ) -> None:
        self._other = 1 - side
        self._seal = bytes.fromhex(seal)
        self._timeout = timeout or _TIMEOUTS[side]
        try:
            group = ProcessGroupGloo(PrefixStore(name, store), side, len(Side), JOIN_TIMEOUT)
        except RuntimeError as error:
            raise LinkLost(cause(error)) from error
        # Its stub lacks send and recv.
        self._group: dist.ProcessGroup | None = cast(dist.ProcessGroup, group)

    def send(self, words: Sequence[int]) -> None:
        """Send words; returns when the other side has taken them."""
        message = torch.tensor((*words, *_SEAL.unpack(self._seal)), dtype=torch.int64)
        self._wait(lambda group: group.send([message], self._other, _TAG))

    def receive(self, num_words: int) -> list[int]:
        """
        Return what the other side sends next.

        Raises ReportRefused if it is shorter, or is not sealed as the term is.
        The buffer is new each time: gloo may write into one long after it was given up.
        """
        message = torch.zeros(num_words + _SEAL_WORDS, dtype=torch.int64)
        self._wait(lambda group: group.recv([message], self._other, _TAG))
        words = message.tolist()
        if not hmac.compare_digest(_SEAL.pack(*words[num_words:]), self._seal):
            raise ReportRefused("it is too short, or from a stranger")
        return words[:num_words]

    def close(self) -> None:
        """Disconnect, once nobody sends or receives here; the other side is told at once."""
        self._group = None  # gloo disconnects when the last reference goes, and this is it

    def _wait(self, start: Callable[[dist.ProcessGroup], dist.Work]) -> None:
        assert self._group is not None, "a link that is closed is not used"
        try:
            start(self._group).wait(self._timeout)
        except RuntimeError as error:
            raise LinkLost(cause(error)) from error


def cause(error: RuntimeError) -> str:
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
