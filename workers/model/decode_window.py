"""
Keys and values of sequences that go on decoding, gathered once and kept beside the pool.

A step of a decoding batch reads every key and value that its sequences have, and one
token of each is new.  Gathering them from their pages costs more than the attention
itself, so what was gathered is kept, and the next step writes one token for each
sequence and reads the rest as it lies.

    step 1   new faces                   gathered from the pages, kept nowhere
    step 2   the same, a token longer    gathered, and kept with room for some tokens more
    step 3   the same, a token longer    one token each is written
    ...
    room used up, or other sequences     as step 1

That it waits for the second step is because keeping costs about what one reuse
saves, and batches that change at every step would pay for nothing.

A sequence is known by its name and length; of one without a name nothing is kept.
Names are never given twice, and the tokens of a name never change, so what is kept
of it is right whatever became of its pages; a pass that fails ends all its
sequences, and their names with them.

Bounded: all windows together have at most max_slots slots, as KVCache counts them.
Where they would need more, nothing is kept.  Those that a pass does not go on with are
given up before it makes new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

ROOM = 32
"""Windows have a multiple of so many tokens for each sequence."""


@dataclass(frozen=True, slots=True)
class Window:
    """
    What is kept of some sequences.

    keys, values: [num_layers, num_kv_heads * B, room, head_dim].  From lengths on zeros, or
    keys and values of the sequence's own first token: finite, for they are given no weight,
    but are multiplied with it.
    """

    names: tuple[int | None, ...]
    lengths: tuple[int, ...]
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def room(self) -> int:
        """Tokens that each sequence may have."""
        return self.keys.shape[2]

    @property
    def num_slots(self) -> int:
        """Slots that it takes, as a KVCache counts them."""
        return len(self.names) * self.room

    def is_before(self, names: Sequence[int | None], lengths: Sequence[int]) -> bool:
        """Whether these are its sequences, each a token longer, and have room."""
        return (
            self.names == tuple(names)
            and tuple(n + 1 for n in self.lengths) == tuple(lengths)
            and max(lengths) <= self.room
        )


class DecodeWindows:
    """The windows of one KV cache; used by whoever computes, one pass after the other."""

    def __init__(
        self,
        shape: torch.Size,
        like: torch.Tensor,
        max_slots: int,
        *,
        keys_are_values: bool = False,
    ) -> None:
        """shape: [num_layers, num_kv_heads, _, head_dim], the cache's; like: dtype and device."""
        self._num_layers, self._num_kv_heads, _, self._head_dim = shape
        self._like = like
        self._keys_are_values = keys_are_values
        self.max_slots = max_slots
        self._windows: list[Window] = []
        self._seen: set[tuple[tuple[int | None, ...], tuple[int, ...]]] = set()
        """Names and lengths of the last pass."""
        self.num_read = 0
        """How often a group was read from its window."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(w.names)}x{w.room}" for w in self._windows)
        return f"<DecodeWindows [{sizes}] of {self.max_slots} slots>"

    def begin(
        self, groups: Sequence[tuple[tuple[int | None, ...], tuple[int, ...]]]
    ) -> list[tuple[Window | None, bool]]:
        """
        Return the window of each group of a pass, and whether it is to be filled first.

        groups: names and lengths of sequences that decode together, with the new token.
        Windows of sequences that are in no group are given up.
        """
        seen, self._seen = self._seen, set(groups)
        kept = [self._follow(names, lengths) for names, lengths in groups]
        self._windows = [window for window in kept if window is not None]
        self.num_read += len(self._windows)
        found = []
        for (names, lengths), window in zip(groups, kept, strict=True):
            is_new = window is None
            if is_new and None not in names and (names, tuple(n - 1 for n in lengths)) in seen:
                window = self._make(names, lengths)
            found.append((window, is_new))
        return found

    def clear(self) -> None:
        """Give all windows up."""
        self._windows, self._seen = [], set()

    def check_integrity(self) -> None:
        """Raise AssertionError if there is more than there may be."""
        assert sum(window.num_slots for window in self._windows) <= self.max_slots
        assert all(max(window.lengths) <= window.room for window in self._windows)

    def _follow(self, names: tuple[int | None, ...], lengths: tuple[int, ...]) -> Window | None:
        window = next((w for w in self._windows if w.is_before(names, lengths)), None)
        return None if window is None else replace(window, lengths=lengths)

    def _make(self, names: tuple[int | None, ...], lengths: tuple[int, ...]) -> Window | None:
        room = -(-max(lengths) // ROOM) * ROOM
        used = sum(window.num_slots for window in self._windows)
        if used + len(names) * room > self.max_slots:
            return None
        shape = (self._num_layers, self._num_kv_heads * len(names), room, self._head_dim)
        keys = self._like.new_zeros(shape)
        values = keys if self._keys_are_values else torch.zeros_like(keys)
        window = Window(names, lengths, keys, values)
        self._windows.append(window)
        return window
