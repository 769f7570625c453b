"""
The ranks that compute together, as torch.distributed connects them.

Every collective waits for all ranks, as long as the process group was made to.  What a
collective raises means that a rank is gone or stuck: the group is of no use to anybody after.

Where gloo connects ranks whose tensors are on a GPU, they go through host memory: NCCL does
not let two ranks use one device.

How long this rank is in collectives is counted: sending, receiving, and waiting for whoever
comes last.  Where a collective is handed to a GPU (NCCL), it is the time in which it is handed
over, and what the GPU waits is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from workers.errors import RankLost
from workers.ranks.links import cause


class RankGroup:
    """Over one of torch's process groups; see workers.model.row_exchange.Collectives."""

    def __init__(
        self,
        group: dist.ProcessGroup,
        *,
        is_staged: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """is_staged: what is on a GPU goes through host memory."""
        self._group = group
        self._is_staged = is_staged
        self._clock_ns = clock_ns
        self.waited_ns = 0
        """In collectives, since the beginning."""

    @property
    def rank(self) -> int:
        """This one."""
        return self._group.rank()

    @property
    def size(self) -> int:
        """Of the group."""
        return self._group.size()

    def all_gather(self, gathered: torch.Tensor, own: torch.Tensor) -> None:
        """Fill gathered [size * n, ...] with everybody's own [n, ...].  Raises RankLost."""
        self._run(self._group._allgather_base, gathered, own)

    def all_reduce(self, summand: torch.Tensor) -> None:
        """Replace it by the sum over ranks.  Raises RankLost."""
        here = self._staged(summand)
        self._wait(lambda: self._group.allreduce([here]))
        if here is not summand:
            summand.copy_(here)

    def broadcast(self, values: torch.Tensor) -> None:
        """Fill it with rank 0's.  Raises RankLost."""
        here = self._staged(values)
        self._wait(lambda: self._group.broadcast([here], _FROM_FIRST))
        if here is not values:
            values.copy_(here)

    def reduce_scatter(self, own: torch.Tensor, summands: torch.Tensor) -> None:
        """Fill own [n, ...] with the sum of its part of everybody's [size * n, ...].  RankLost."""

        def start(into: torch.Tensor, values: torch.Tensor) -> dist.Work:
            return self._group._reduce_scatter_base(into, values, dist.ReduceScatterOptions())

        self._run(start, own, summands)

    def all_to_all(
        self,
        received: torch.Tensor,
        sent: torch.Tensor,
        num_received: Sequence[int],
        num_sent: Sequence[int],
    ) -> None:
        """Send num_sent[r] elements of sent to each rank r, and receive likewise.  RankLost."""

        def start(into: torch.Tensor, values: torch.Tensor) -> dist.Work:
            return self._group.alltoall_base(into, values, list(num_received), list(num_sent))

        self._run(start, received, sent)

    def _run(
        self,
        start: Callable[[torch.Tensor, torch.Tensor], dist.Work],
        into: torch.Tensor,
        values: torch.Tensor,
    ) -> None:
        here, there = self._staged(into), self._staged(values.contiguous())
        self._wait(lambda: start(here, there))
        if here is not into:
            into.copy_(here)

    def _staged(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.cpu() if self._is_staged else tensor

    def _wait(self, start: Callable[[], dist.Work]) -> None:
        began_ns = self._clock_ns()
        try:
            start().wait()
        except RuntimeError as error:
            raise RankLost(cause(error)) from error
        self.waited_ns += self._clock_ns() - began_ns


_FROM_FIRST = dist.BroadcastOptions()
_FROM_FIRST.rootRank, _FROM_FIRST.rootTensor = 0, 0
