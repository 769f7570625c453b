"""The keys and values of every token that the engine holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from workers.model.config import ModelConfig
from workers.model.decode_window import DecodeWindows
from workers.model.prefill_mask import PrefillMask, choose_prefill_mask
from workers.model.shard import WHOLE, Shard

_WINDOW_SHARE = 0.5
"""Slots that windows may have, by slots of the cache; only on a CPU, where gathering is slow."""


class LayerCache(NamedTuple):
    """A layer's part of the cache.  keys, values: [num_kv_heads, num_slots, head_dim]."""

    number: int
    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class KVCache:
    """
    A pool of slots, one token's keys and values in each.

    Who owns which slot is the engine's business; a slot that no sequence names
    is never read, so slots need no clearing.

    keys, values: [num_layers, num_kv_heads, num_slots, head_dim], so that what is
    gathered of some slots is one matrix for each head; contiguous.  Of a model that keeps
    latents both are the same tensor.
    One slot more than there are pages for is nobody's: rows that only fill a batch up write there.
    windows: copies of what is read at every step.  prefill_mask: how attention is told it.
    """

    keys: torch.Tensor
    values: torch.Tensor
    windows: DecodeWindows
    prefill_mask: PrefillMask

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        num_slots: int,
        device: torch.device | str,
        dtype: torch.dtype,
        attention_shard: Shard = WHOLE,
    ) -> KVCache:
        """Return a cache of num_slots zeroed slots and a spare one, for the heads of that shard."""
        num_kv_heads = len(config.kv_heads_of(attention_shard))
        shape = (config.num_layers, num_kv_heads, num_slots + 1, config.head_dim)
        keys = torch.zeros(shape, device=device, dtype=dtype)
        is_cpu = keys.device.type == "cpu"
        max_window_slots = int(num_slots * _WINDOW_SHARE) if is_cpu else 0
        is_latent = config.latent is not None
        windows = DecodeWindows(keys.shape, keys, max_window_slots, keys_are_values=is_latent)
        mask = PrefillMask.WRITTEN if is_latent else choose_prefill_mask(keys)
        return cls(keys, keys if is_latent else torch.zeros_like(keys), windows, mask)

    @property
    def spare_slot(self) -> int:
        """The one that belongs to no page."""
        return self.keys.shape[2] - 1

    def free(self) -> int:
        """Free the slots and all copies of them; return how many bytes that were."""
        self.windows.clear()
        num_bytes = sum(part.untyped_storage().nbytes() for part in self._parts)
        for part in self._parts:
            part.untyped_storage().resize_(0)
        return num_bytes

    def allocate_again(self) -> int:
        """Have the slots again that were freed, zeroed; return how many bytes that are."""
        for part in self._parts:
            part.untyped_storage().resize_(part.numel() * part.element_size())
            part.zero_()
        return sum(part.untyped_storage().nbytes() for part in self._parts)

    @property
    def _parts(self) -> tuple[torch.Tensor, ...]:
        return (self.keys,) if self.keys is self.values else (self.keys, self.values)

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self.keys.dtype

    def layer(self, number: int) -> LayerCache:
        """Return one layer's part."""
        return LayerCache(number, self.keys[number], self.values[number])

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """
        Return where slots [L] are in a layer seen as [num_kv_heads * num_slots, head_dim].

        [num_kv_heads * L], head by head.  Rows of such a matrix are gathered nearly
        twice as fast as slots of each head.
        """
        _, num_kv_heads, num_slots, _ = self.keys.shape
        heads = torch.arange(num_kv_heads, device=slots.device) * num_slots
        return (heads[:, None] + slots).flatten()
