"""
What one rank has cached: the engine's names of blocks, and ours of the same pages.

    hash (the engine's)  ->  digest (shm.page_digest), and how many copies there are
    digest               ->  by how many hashes it is known

An engine's hash cannot be computed here, and ours not there.  So a block's digest follows from
that of the block before it and its tokens, which the engine tells as it stores the block; of
a block that is removed it tells the hash alone.

Used is only what a prompt of plain text could find again: see condition.Unused.  What comes
after a block that is not used is not used either, because its parent is not known.

Copies: two requests that compute the same prompt at once leave vLLM with two blocks of one
hash, told twice when stored and twice when removed; as long as one is left it is found.  A radix
tree, SGLang's, holds nothing twice, whatever it tells.

Bounded: MAX_BLOCKS of a rank, beyond which nothing is added until some are removed.  Measured:
240 bytes a block, 126 MB for a rank that fills it; 60 more each where hashes are 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from balancer.prefix_index import Change, PrefixEvent
from router.control_plane.kv_events.condition import KvTally, Unused
from router.control_plane.kv_events.events import (
    AllCleared,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    KvEvent,
)
from router.errors import RouterError
from shm.page_digest import NO_DIGEST, page_digests

MAX_BLOCKS = 524_288  # of one rank: 8 million tokens in blocks of 16
_ACCELERATOR = (None, "GPU")
_WHOLE = (None, "full_attention", "mla_attention", "sink_full_attention")


class Unchained(RouterError):
    """One hash was told of blocks with different beginnings."""


class _Block(NamedTuple):
    digest: int
    num_copies: int


class BlockMap:
    """Belongs to the reader of one rank; pure."""

    def __init__(
        self, tally: KvTally, *, counts_copies: bool, max_blocks: int = MAX_BLOCKS
    ) -> None:
        """`counts_copies`: each block that is told as stored is a copy more."""
        self._tally = tally
        self._counts_copies = counts_copies
        self._max_blocks = max_blocks
        self._blocks: dict[BlockHash, _Block] = {}
        self._known_by: dict[int, int] = {}
        self._group: object = None
        self.page_size = 0
        """Tokens in a block; 0: none was told yet."""

    def __repr__(self) -> str:
        return f"<BlockMap {len(self._blocks)} blocks of {self.page_size} tokens>"

    def __len__(self) -> int:
        return len(self._known_by)

    @property
    def digests(self) -> list[int]:
        """Of all pages that are there."""
        return list(self._known_by)

    def forget(self) -> None:
        """Know nothing."""
        self._blocks.clear()
        self._known_by.clear()
        self._group, self.page_size = None, 0

    def take(self, event: KvEvent) -> PrefixEvent | None:
        """Take it over; return what has changed.  Raises Unchained."""
        if isinstance(event, BlocksStored):
            return _told(Change.STORED, self._store(event))
        if isinstance(event, BlocksRemoved):
            return _told(Change.EVICTED, self._remove(event))
        assert isinstance(event, AllCleared)
        self._blocks.clear()
        self._known_by.clear()
        return PrefixEvent(Change.BEGUN)

    def check_integrity(self) -> None:
        """Raise AssertionError unless the two maps agree."""
        known_by: dict[int, int] = {}
        for block in self._blocks.values():
            assert block.num_copies > 0
            known_by[block.digest] = known_by.get(block.digest, 0) + 1
        assert known_by == self._known_by
        assert len(self._blocks) <= self._max_blocks

    def _store(self, event: BlocksStored) -> list[int]:
        hashes, unused = event.hashes, self._tally.unused
        reason, before = self._why_unused(event)
        if reason is not None:
            unused[reason] += len(hashes)
            return []
        plain = _num_plain(event.extra_keys, len(hashes))
        unused[Unused.EXTRA_KEYS] += len(hashes) - plain
        tokens = cast(Sequence[int], event.tokens[: plain * event.block_size])
        try:
            digests = page_digests(tokens, event.block_size, before)
        except (OverflowError, TypeError):
            unused[Unused.TOKENS] += plain
            return []
        if plain and not self.page_size:
            self.page_size, self._group = event.block_size, event.group
        return self._add(hashes[:plain], digests)

    def _why_unused(self, event: BlocksStored) -> tuple[Unused | None, int]:
        """Why none of its blocks is used, or the digest that they follow."""
        if event.medium not in _ACCELERATOR:
            return Unused.MEDIUM, NO_DIGEST
        if event.attention not in _WHOLE or (self.page_size and event.group != self._group):
            return Unused.ATTENTION, NO_DIGEST
        if event.has_lora:
            return Unused.LORA, NO_DIGEST
        if self.page_size and event.block_size != self.page_size:
            return Unused.BLOCK_SIZE, NO_DIGEST
        if len(event.tokens) != len(event.hashes) * event.block_size:
            return Unused.TOKENS, NO_DIGEST
        if event.parent is None:
            return None, NO_DIGEST
        parent = self._blocks.get(event.parent)
        return (Unused.PARENT, NO_DIGEST) if parent is None else (None, parent.digest)

    def _add(self, hashes: Sequence[BlockHash], digests: Sequence[int]) -> list[int]:
        """Note those blocks; return the digests that were not there before."""
        new, blocks, known_by = [], self._blocks, self._known_by
        for place, (name, digest) in enumerate(zip(hashes, digests, strict=True)):
            known = blocks.get(name)
            if known is not None:
                if known.digest != digest:
                    raise Unchained(f"block {name!r} has two beginnings")
                if self._counts_copies:
                    blocks[name] = known._replace(num_copies=known.num_copies + 1)
                continue
            if len(blocks) >= self._max_blocks:
                self._tally.unused[Unused.ROOM] += len(hashes) - place
                break
            blocks[name] = _Block(digest, 1)
            if digest not in known_by:
                new.append(digest)
            known_by[digest] = known_by.get(digest, 0) + 1
        return new

    def _remove(self, event: BlocksRemoved) -> list[int]:
        """Note that one copy of each is gone; return the digests that are not there any more."""
        gone: list[int] = []
        if event.medium not in _ACCELERATOR or event.group != self._group:
            return gone
        for name in event.hashes:
            block = self._blocks.pop(name, None)
            if block is None:
                continue  # one that was not used
            if block.num_copies > 1:
                self._blocks[name] = block._replace(num_copies=block.num_copies - 1)
                continue
            self._known_by[block.digest] -= 1
            if not self._known_by[block.digest]:
                del self._known_by[block.digest]
                gone.append(block.digest)
        return gone


def _told(change: Change, digests: list[int]) -> PrefixEvent | None:
    return PrefixEvent(change, digests) if digests else None


def _num_plain(extra_keys: Sequence[object], num_blocks: int) -> int:
    """How many blocks, from the first on, have hashes of tokens alone."""
    for place, keys in enumerate(extra_keys[:num_blocks]):
        if keys:
            return place
    return num_blocks
