"""The keys and values of every token that the engine holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class KVCache:
    """
    A pool of slots, one token's keys and values in each.

    Who owns which slot is the engine's business; a slot that no sequence names
    is never read, so slots need no clearing.

    keys, values: [num_layers, num_slots, num_kv_heads, head_dim].
    """

    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def allocate(
        cls, config: ModelConfig, num_slots: int, device: torch.device | str, dtype: torch.dtype
    ) -> KVCache:
        """Return a cache of num_slots zeroed slots."""
        shape = (config.num_layers, num_slots, config.num_kv_heads, config.head_dim)
        keys = torch.zeros(shape, device=device, dtype=dtype)
        return cls(keys, torch.zeros_like(keys))
