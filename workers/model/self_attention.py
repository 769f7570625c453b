"""
The attention part of a decoder layer, for some of the heads.

Heads may be shared by the ranks of a DP group.  Each has some key heads and the query heads
that attend through them, so that nothing about keys and values crosses ranks and the cache is
shared as well.  What a rank computes are summands of the output: a sum over the group is
the caller's to make.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from workers.model.attention import Attention
from workers.model.config import ModelConfig
from workers.model.feed_forward import Weights
from workers.model.kv_cache import LayerCache
from workers.model.projection import Projection
from workers.model.rms_norm import rms_norm
from workers.model.rope import rotate
from workers.model.shard import WHOLE, Place, Shard


class Here(NamedTuple):
    """
    What every layer's attention needs to know of a pass.

    turn: cosine and sine of each row's position.  slots: where its key and value go.
    """

    attention: Attention
    turn: tuple[torch.Tensor, torch.Tensor]
    slots: torch.Tensor


class SelfAttention(torch.nn.Module):
    """shard: its part of the heads, one key head at least.  The first adds the output's bias."""

    def __init__(self, config: ModelConfig, weight: Weights, shard: Shard = WHOLE) -> None:
        super().__init__()
        self._config = config
        self._kv_heads = shard.of(config.num_kv_heads)
        assert self._kv_heads, f"{shard} of {config.num_kv_heads} key heads has none"
        each = config.num_heads // config.num_kv_heads
        self._heads = range(self._kv_heads.start * each, self._kv_heads.stop * each)
        width, kv_width = (len(part) * config.head_dim for part in (self._heads, self._kv_heads))
        num_qkv, hidden = width + 2 * kv_width, config.hidden_size
        self.qkv = Projection(
            weight(num_qkv, hidden), weight(num_qkv) if config.attention_bias else None
        )
        bias = weight(hidden) if config.output_bias and shard.rank == 0 else None
        self.output = Projection(weight(hidden, width), bias)
        self.norms = torch.nn.ParameterList(
            weight(config.head_dim) for _ in "qk" if config.has_qk_norm
        )

    def places(self) -> dict[str, Place]:
        """Return where each weight is kept, by its Hugging Face name below `self_attn`."""
        kept = self._kept(self._heads), self._kept(self._kv_heads), self._kept(self._kv_heads)
        size, kv_size = self._width(self._config.num_heads), self._width(self._config.num_kv_heads)
        found = {"o_proj.weight": Place(self.output.view(), 1, kept[0], size)}
        for kind, whole in (("weight", self.qkv.view()), ("bias", self.qkv.bias)):
            if whole is None:
                continue
            views = torch.split(whole, [len(part) for part in kept])
            for letter, view, part in zip("qkv", views, kept, strict=True):
                rows = size if letter == "q" else kv_size
                found[f"{letter}_proj.{kind}"] = Place(view, 0, part, rows)
        if self._config.output_bias:
            found["o_proj.bias"] = self._bias()
        for letter, norm in zip("qk", self.norms, strict=False):
            found[f"{letter}_norm.weight"] = Place(norm)
        return found

    def forward(self, rows: torch.Tensor, here: Here, cache: LayerCache) -> torch.Tensor:
        """
        Return this shard's summand of the output for rows, both [T, hidden_size].

        Stores the new keys and values of its heads.
        """
        num_heads, num_kv_heads = len(self._heads), len(self._kv_heads)
        num_turned = num_heads + num_kv_heads
        qkv = self.qkv(rows).view(len(rows), num_turned + num_kv_heads, self._config.head_dim)
        turned = rotate(self._normed(qkv[:, :num_turned]), *here.turn)
        cache.keys.index_copy_(1, here.slots, turned[:, num_heads:].transpose(0, 1))
        cache.values.index_copy_(1, here.slots, qkv[:, num_turned:].transpose(0, 1))
        attended = here.attention.attend(turned[:, :num_heads], cache).flatten(1)
        output: torch.Tensor = self.output(attended)
        return output

    def _normed(self, heads: torch.Tensor) -> torch.Tensor:
        """Return heads of queries and keys [T, heads, head_dim], normed if the model norms them."""
        config = self._config
        if not config.has_qk_norm:
            return heads
        parts = torch.split(heads, [len(self._heads), len(self._kv_heads)], dim=1)
        normed = [
            rms_norm(part.reshape(-1, config.head_dim), norm, config.rms_norm_eps).view_as(part)
            for part, norm in zip(parts, self.norms, strict=True)
        ]
        return torch.cat(normed, dim=1)

    def _bias(self) -> Place:
        """Of the output: in the sum once."""
        if self.output.bias is not None:
            return Place(self.output.bias)
        return Place(self.output.view().new_empty(0), 0, range(0), self._config.hidden_size)

    def _kept(self, heads: range) -> range:
        return range(self._width(heads.start), self._width(heads.stop))

    def _width(self, num_heads: int) -> int:
        return num_heads * self._config.head_dim
