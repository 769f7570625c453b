"""
A rank's part of matrices that several ranks share.

Flags say which part, and are read before torch may be imported (workers.__main__).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Shard:
    """Part number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def of(self, count: int) -> range:
        """
        Its part of so many rows, heads or experts: contiguous, and as even as can be.

        The first parts are one larger where it does not go up.
        """
        each, left = divmod(count, self.size)
        start = self.rank * each + min(self.rank, left)
        return range(start, start + each + (self.rank < left))

    def all(self) -> list[Shard]:
        """Every part, this one among them, in order."""
        return [Shard(rank, self.size) for rank in range(self.size)]


WHOLE = Shard()


class Place(NamedTuple):
    """
    Where a checkpoint's weight is kept.

    view: of the parameter.  part: what of the weight's rows, or with dim 1 of its columns, is
    kept, of so many (whole); None: all of it.
    """

    view: torch.Tensor
    dim: int = 0
    part: range | None = None
    whole: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight in the checkpoint."""
        shape = list(self.view.shape)
        if self.part is not None:
            shape[self.dim] = self.whole
        return tuple(shape)

    def fill(self, weight: torch.Tensor) -> None:
        """Copy in what of the weight is kept here, in the view's dtype."""
        if self.part is not None:
            weight = weight.narrow(self.dim, self.part.start, len(self.part))
        self.view.copy_(weight)
