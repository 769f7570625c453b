"""
Which part of the set of ranks one rank is, and the flags that say so.

    world rank    0   1   2   3        --tp-size 4 (T)
    DP group      0   0   1   1        --dp-size 2 (G)
    attention TP  0   1   0   1        T / G ranks share the attention of a group

With --enable-dp-attention all T ranks compute together: attention per DP group, everything
else sharded over all of them, as SGLang has it.  Without it each group is one rank that has
the whole model, and waits for nobody.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from workers.errors import InvalidConfig
from workers.flag_types import at_least, positive
from workers.model.shard import Shard


class Parallelism(NamedTuple):
    """A rank's place; tp_rank: its world rank."""

    tp_rank: int
    tp_size: int
    dp_rank: int
    dp_size: int

    @property
    def attention_size(self) -> int:
        """Ranks that share the attention of a group."""
        return self.tp_size // self.dp_size

    @property
    def attention_rank(self) -> int:
        """This one's number among them."""
        return self.tp_rank % self.attention_size

    @property
    def is_leader(self) -> bool:
        """Whether it has the group's scheduler and HTTP server."""
        return self.attention_rank == 0

    @property
    def shard(self) -> Shard:
        """Its part of all that is not attention."""
        return Shard(self.tp_rank, self.tp_size)

    @property
    def attention_shard(self) -> Shard:
        """Its part of the group's heads."""
        return Shard(self.attention_rank, self.attention_size)

    def check_heads(self, num_heads: int) -> None:
        """Raise InvalidConfig if there are not as many heads as ranks that share them."""
        if self.attention_size > num_heads:
            raise InvalidConfig(
                f"--tp-size is {self.tp_size}; with --dp-size {self.dp_size} it must be at most "
                f"{num_heads * self.dp_size}: the {self.attention_size} ranks of a group share "
                f"{num_heads} heads of its keys, and each needs one"
            )

    def check(self) -> None:
        """Raise InvalidConfig if there can be no such place."""
        if self.tp_size % self.dp_size:
            raise InvalidConfig(
                f"--tp-size is {self.tp_size}; with --enable-dp-attention it must be a multiple "
                f"of --dp-size, {self.dp_size}"
            )
        first = self.dp_rank * self.attention_size
        last = first + self.attention_size - 1
        if not first <= self.tp_rank <= last:
            raise InvalidConfig(
                f"--tp-rank is {self.tp_rank}; group {self.dp_rank} of {self.dp_size} has ranks "
                f"{first} to {last} of {self.tp_size}"
            )


def add_parallelism(parser: argparse.ArgumentParser) -> None:
    """The flags of ranks that compute together."""
    add = parser.add_argument_group("ranks that compute together").add_argument
    switch_help = "attention per DP group, the rest of the model sharded over all ranks"
    add("--enable-dp-attention", default=False, action="store_true", help=switch_help)
    size_help = "ranks of the set, a multiple of --dp-size; 1 without --enable-dp-attention"
    add("--tp-size", default=1, help=size_help, type=at_least(1), metavar="INT")
    rank_help = "number of this rank in the set (default: the first of its group)"
    add("--tp-rank", default=None, help=rank_help, type=at_least(0), metavar="INT")
    experts_help = "each rank has some experts whole, not a part of every one"
    add("--enable-expert-parallel", default=False, action="store_true", help=experts_help)
    timeout_help = "seconds after which a rank that others wait for counts as lost"
    add(
        "--dist-timeout",
        default=120.0,
        dest="dist_timeout_s",
        help=timeout_help,
        type=positive,
        metavar="FLOAT",
    )
