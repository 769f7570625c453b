"""KV cache events of vLLM and SGLang, as far as they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from router.errors import RouterError

BlockHash = int | bytes
"""Whichever of the two the engine uses: it names a block and is compared, nothing else."""


class Unreadable(RouterError):
    """A batch is not what it should be: what it said is not known."""


class BlocksStored(NamedTuple):
    """Blocks that follow each other in a prompt were put into the cache."""

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    """The block before the first; None: that one is a prompt's first."""
    tokens: Sequence[object]
    """Of all blocks; token ids, if they are integers."""
    block_size: int
    medium: object = None
    has_lora: bool = False
    extra_keys: Sequence[object] = ()
    """By block, what its hash depends on beside tokens; empty: none has any."""
    group: object = None
    """Which of the engine's sets of layers; None: there is one."""
    attention: object = None
    """Of those layers; None: not told, all of them attend to all tokens."""


class BlocksRemoved(NamedTuple):
    """Blocks are gone: each hash one copy."""

    hashes: Sequence[BlockHash]
    medium: object = None
    group: object = None


class AllCleared(NamedTuple):
    """Nothing is cached any more."""


KvEvent = BlocksStored | BlocksRemoved | AllCleared
