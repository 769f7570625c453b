"""
A batch whose rows are split among the ranks of its DP group.

    batch     0 1 2 3 4 5 6              n = 7 rows, 3 ranks: strides of ceil(n / 3)
    own       0 1 2 | 3 4 5 | 6
    gathered  0 1 2   3 4 5   6 . .      the batch, and after it padding

Between the layers each rank has its own rows, norms them and adds to them.  For attention,
of which it has some heads, all of the batch comes together, and what the ranks computed for it
goes apart as it is summed.  Since strides are even but for the last ones, what is gathered is
the batch in its order, and padding is cut and added at the end.

An idle group has no rows, and its ranks exchange nothing among themselves.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from workers.model.row_exchange import Collectives, Compute, Shared


def own_counts(num_rows: int, size: int) -> list[int]:
    """Rows that each of size ranks has of num_rows; the last ones may have none."""
    stride = -(-num_rows // size)
    return [max(0, min(stride, num_rows - rank * stride)) for rank in range(size)]


class SplitRows:
    """Between the ranks of a group; see workers.model.row_exchange.BatchExchange."""

    def __init__(self, group: Collectives, num_rows: int) -> None:
        counts = own_counts(num_rows, group.size)
        start = sum(counts[: group.rank])
        self._own = slice(start, start + counts[group.rank])
        self._num_rows = num_rows
        self._shared = Shared(group, counts)

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this rank's of the batch's rows."""
        return rows[self._own]

    def whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the batch's rows."""
        if not self._num_rows:
            return rows
        return self._shared.gather(rows)[: self._num_rows]

    def through(self, rows: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Return own rows of the sum over ranks of what they compute for the whole batch."""
        if not self._num_rows:
            return rows
        gathered = self._shared.gather(rows)
        summands = compute(gathered[: self._num_rows])
        num_padding = len(gathered) - self._num_rows
        if num_padding:
            summands = pad(summands, (0, 0, 0, num_padding))
        return self._shared.scatter(summands)
