"""
What ranks of DP attention do with each other's rows, within one pass.

Attention is each rank's own, over its own tokens.  What follows has weights that are sharded
over all ranks, so every rank computes its part of it for everybody's rows:

    gather      own rows [n, H]           -> everybody's [N, H], in the order of ranks
    scatter     summands [N, H]           -> the sum over ranks of own rows [n, H]
    columns     columns [N, V_rank]       -> all columns of own rows [n, V]

A collective wants parts of one size.  Rows are padded to the largest part (`Padding.MAX`), or
everybody adds into one buffer that has a place for each row (`Padding.SUM`), which sends
twice as much per row, and no padding.  Decoding groups are about even, a prompt beside them
is not: the cheaper one follows from the counts alone, so all ranks choose alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch

Compute = Callable[[torch.Tensor], torch.Tensor]


class Collectives(Protocol):
    """Of a group of ranks; each call waits for all of them."""

    @property
    def rank(self) -> int:
        """This one."""

    @property
    def size(self) -> int:
        """Of the group."""

    def all_gather(self, gathered: torch.Tensor, own: torch.Tensor) -> None:
        """Fill gathered [size * n, ...] with everybody's own [n, ...]."""

    def all_reduce(self, summand: torch.Tensor) -> None:
        """Replace it by the sum over ranks."""

    def broadcast(self, values: torch.Tensor) -> None:
        """Fill it with rank 0's."""

    def reduce_scatter(self, own: torch.Tensor, summands: torch.Tensor) -> None:
        """Fill own [n, ...] with the sum over ranks of this rank's part of [size * n, ...]."""

    def all_to_all(
        self,
        received: torch.Tensor,
        sent: torch.Tensor,
        num_received: Sequence[int],
        num_sent: Sequence[int],
    ) -> None:
        """Send num_sent[r] elements of sent, flat, to each rank r; receive likewise."""


class Padding(Enum):
    """How uneven parts become even."""

    MAX = "max"
    SUM = "sum"

    @classmethod
    def cheaper(cls, counts: Sequence[int]) -> Padding:
        """For parts of so many rows: all-reduce moves each row twice, all-gather once."""
        return cls.MAX if max(counts) * len(counts) <= 2 * sum(counts) else cls.SUM


class RowExchange(Protocol):
    """Rows of all ranks, each rank's in one piece."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody has any."""

    def through(self, rows: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Return the sum over ranks of what they compute for own rows [n, H]."""

    def columns(self, rows: torch.Tensor, compute: Compute, widths: Sequence[int]) -> torch.Tensor:
        """Return for own rows what each rank computes of them, widths[r] columns, side by side."""


class BatchExchange(Protocol):
    """Rows of one batch, which the ranks of a DP group have split among them."""

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this rank's [m, ...] of the batch's rows [n, ...]."""

    def whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the batch's rows [n, ...]; rows: own [m, ...]."""

    def through(self, rows: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Return own rows of the sum over ranks of what they compute for the whole batch."""


class Alone:
    """One rank has all weights."""

    is_empty = False

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return all."""
        return rows

    def whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Return them."""
        return rows

    def through(self, rows: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Compute."""
        return compute(rows)

    def columns(self, rows: torch.Tensor, compute: Compute, widths: Sequence[int]) -> torch.Tensor:
        """Compute."""
        return compute(rows)


class Shared:
    """Between ranks; each has counts[r] rows."""

    def __init__(self, group: Collectives, counts: Sequence[int]) -> None:
        self._group = group
        self._counts = tuple(counts)
        self._padding = Padding.cheaper(counts) if any(counts) else Padding.SUM
        self._num_own = counts[group.rank]
        self._ranks = range(group.size)
        if self._padding is Padding.MAX:
            self._stride = max(counts)
            self._starts = [rank * self._stride for rank in range(group.size)]
            self._num_rows = group.size * self._stride
        else:
            self._starts = [0, *accumulate(counts)][:-1]
            self._num_rows = sum(counts)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has any row."""
        return not any(self._counts)

    def through(self, rows: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Return the sum over ranks of what they compute for own rows [n, H]."""
        return self.scatter(compute(self.gather(rows)))

    def columns(self, rows: torch.Tensor, compute: Compute, widths: Sequence[int]) -> torch.Tensor:
        """Return for own rows what each rank computes of them, widths[r] columns, side by side."""
        computed = compute(self.gather(rows))
        own_width = widths[self._group.rank]
        sent = torch.cat([computed[self._rows_of(rank)].flatten() for rank in self._ranks])
        num_sent = [count * own_width for count in self._counts]
        num_received = [self._num_own * width for width in widths]
        received = computed.new_empty(sum(num_received))
        self._group.all_to_all(received, sent, num_received, num_sent)
        parts, end = [], 0
        for width, count in zip(widths, num_received, strict=True):
            parts.append(received[end : end + count].view(self._num_own, width))
            end += count
        return torch.cat(parts, dim=1)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return everybody's rows, those of rank r from starts[r] on."""
        shape = (self._num_rows, *rows.shape[1:])
        gathered = rows.new_zeros(shape)
        if self._padding is Padding.SUM:
            self._own(gathered).copy_(rows)
            self._group.all_reduce(gathered)
            return gathered
        padded = rows.new_zeros((self._stride, *rows.shape[1:]))
        padded[: self._num_own] = rows
        self._group.all_gather(gathered, padded)
        return gathered

    def scatter(self, summands: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks of own rows."""
        if self._padding is Padding.SUM:
            self._group.all_reduce(summands)
            return self._own(summands)
        own = summands.new_empty((self._stride, *summands.shape[1:]))
        self._group.reduce_scatter(own, summands)
        return own[: self._num_own]

    def _own(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[self._rows_of(self._group.rank)]

    def _rows_of(self, rank: int) -> slice:
        return slice(self._starts[rank], self._starts[rank] + self._counts[rank])


class StepExchange(NamedTuple):
    """
    Of one pass.

    tokens: own rows of the token axis, among all ranks.  outputs: those whose logits are wanted.
    attention: rows of the DP group's batch, among its ranks.
    """

    tokens: RowExchange
    outputs: RowExchange
    attention: BatchExchange = Alone()


ALONE = StepExchange(Alone(), Alone())
