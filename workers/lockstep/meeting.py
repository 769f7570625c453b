"""
Where the ranks that compute together find each other.

    <run-dir>/set.json    where rank 0 has opened a store for this life of the set
    settings-<rank>       in the store: this rank is here, and what it was told
    complete              all are

A set lives and ends as a whole: when one rank is gone the others end, and all begin anew, at
a new store under a new name.  A rank that finds the store of an earlier life there, or nobody
behind it, looks again until the next one is open.

Ranks load their weights first, each at its own pace, and meet then; how long that takes is
nobody's fault, so who waits for others here waits without a limit, and says from time to time
for whom.  Whoever started the ranks knows if one of them has ended.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, cast

import torch.distributed as dist
from torch.distributed import DistStoreError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo, Store

from workers.errors import InvalidConfig, RankLost
from workers.ranks.links import cause
from workers.ranks.rank_group import RankGroup

logger = logging.getLogger("levelhead.workers.lockstep")

_STORE_TIMEOUT = timedelta(seconds=5)
_LOOK_INTERVAL_S = 0.1
_TELL_INTERVAL_S = 30.0
_COMPLETE = "complete"


class Meeting(NamedTuple):
    """
    The ranks of a set, together.

    group: over gloo, on the CPU.  store: where they have met; own_store: another connection
    to it, for a thread that waits there.
    """

    group: RankGroup
    store: Store
    own_store: Store


class MeetingPoint(NamedTuple):
    """Where a store is, and under which name this life of the set meets there."""

    host: str
    port: int
    name: str

    def connect(self) -> Store:
        """Return a connection.  Raises OSError or RuntimeError if nobody is there."""
        # torch tries for long, and noisily, to connect to a port where nobody listens.
        socket.create_connection((self.host, self.port), _STORE_TIMEOUT.total_seconds()).close()
        store = TCPStore(self.host, self.port, timeout=_STORE_TIMEOUT, wait_for_workers=False)
        return PrefixStore(self.name, store)

    def write(self, run_dir: Path) -> None:
        """Tell the other ranks."""
        partial = _path(run_dir).with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(self._asdict()))
        partial.replace(_path(run_dir))

    @classmethod
    def read(cls, run_dir: Path) -> MeetingPoint | None:
        """Return what rank 0 has told last; None if there is nothing yet."""
        try:
            return cls(**json.loads(_path(run_dir).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def open_meeting_point(run_dir: Path, listener: socket.socket) -> tuple[MeetingPoint, Store]:
    """
    Open the store of a new life of the set, for rank 0.

    listener: bound and listening; it is the store's from now on.  The store ends with its
    last reference.
    """
    host, port = listener.getsockname()[:2]
    point = MeetingPoint(host, port, secrets.token_hex(16))
    store = TCPStore(
        host,
        port,
        is_master=True,
        timeout=_STORE_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    point.write(run_dir)
    return point, PrefixStore(point.name, store)


class Attendance:
    """
    One rank's arrival.

    settings: what all ranks must have been told alike.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        settings: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rank
        self._size = size
        self._settings = settings
        self._clock_s = clock_s

    def host(self, store: Store) -> None:
        """Wait for all others, for rank 0.  Raises InvalidConfig if one was told otherwise."""
        store.set(_key(0), self._settings)
        missing = list(range(1, self._size))
        told_s = self._clock_s()
        while missing:
            missing = [rank for rank in missing if not _is_there(store, [_key(rank)])]
            if missing and self._clock_s() - told_s >= _TELL_INTERVAL_S:
                told_s = self._clock_s()
                logger.info("still waiting for ranks %s of the set", _listed(missing))
        for rank in range(1, self._size):
            self._check(rank, store.get(_key(rank)).decode())
        store.set(_COMPLETE, "")

    def attend(self, store: Store, is_over: Callable[[], bool]) -> bool:
        """
        Wait until all are there; False if it is_over, and nobody will come to this store.

        Raises InvalidConfig if rank 0 was told otherwise, and RankLost if this rank's place is
        taken: that of an earlier process, whose set has not ended yet.
        """
        if not _is_there(store, [_key(0)]):
            return False
        if store.add(f"taken-{self._rank}", 1) > 1:
            raise RankLost(f"the set has a rank {self._rank} already; it has to end first")
        store.set(_key(self._rank), self._settings)
        self._check(0, store.get(_key(0)).decode())
        while not _is_there(store, [_COMPLETE]):
            if is_over():
                return False
        return True

    def _check(self, rank: int, settings: str) -> None:
        if settings != self._settings:
            raise InvalidConfig(
                f"ranks compute together that were told differently: rank {rank} {settings}; "
                f"rank {self._rank} {self._settings}"
            )


def meet(
    run_dir: Path, attendance: Attendance, rank: int, bind: Callable[[], socket.socket]
) -> tuple[Store, Store]:
    """
    Return two connections to the store where all ranks of the set are.

    bind: a socket bound to a free port, for rank 0's store.  Raises as Attendance does.
    """
    if rank == 0:
        listener = bind()
        listener.listen()
        point, store = open_meeting_point(run_dir, listener)
        attendance.host(store)
        return store, point.connect()
    while True:
        point_there = MeetingPoint.read(run_dir)
        if point_there is not None:
            stores = _attend(point_there, attendance, run_dir)
            if stores is not None:
                return stores
        time.sleep(_LOOK_INTERVAL_S)


def make_group(
    store: Store, rank: int, size: int, timeout_s: float, *, is_staged: bool = False
) -> RankGroup:
    """
    Connect the ranks that have met, over gloo.  A collective may take timeout_s.

    is_staged: what is on a GPU goes through host memory.  Raises RankLost.
    """
    try:
        group = ProcessGroupGloo(
            PrefixStore("ranks", store), rank, size, timedelta(seconds=timeout_s)
        )
    except RuntimeError as error:
        raise RankLost(cause(error)) from error
    return RankGroup(cast(dist.ProcessGroup, group), is_staged=is_staged)


def make_nccl_group(store: Store, rank: int, size: int, timeout_s: float) -> RankGroup:
    """
    Connect ranks that have a CUDA device each, which is the current one.

    A collective that takes longer ends the process, from a thread of torch's.
    """
    from torch.distributed.distributed_c10d import ProcessGroupNCCL  # not in every torch

    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=timeout_s)
    group = ProcessGroupNCCL(PrefixStore("nccl", store), rank, size, options)
    return RankGroup(cast(dist.ProcessGroup, group))


def _attend(
    point: MeetingPoint, attendance: Attendance, run_dir: Path
) -> tuple[Store, Store] | None:
    """Join; None if nobody is there any more, or all are to meet elsewhere."""
    try:
        store, own_store = point.connect(), point.connect()
        is_met = attendance.attend(store, lambda: MeetingPoint.read(run_dir) != point)
    except (OSError, RuntimeError) as error:
        logger.debug("nobody of the set is at %s:%d: %s", point.host, point.port, error)
        return None
    return (store, own_store) if is_met else None


def _is_there(store: Store, keys: list[str]) -> bool:
    try:
        store.wait(keys, timedelta(seconds=1))
    except DistStoreError:
        return False
    return True


def _key(rank: int) -> str:
    return f"settings-{rank}"


def _listed(ranks: Iterable[int]) -> str:
    return ", ".join(map(str, ranks))


def _path(run_dir: Path) -> Path:
    return run_dir / "set.json"
