"""
Attention over latents: what is kept of a token is one short vector, from which every head makes
its key and its value (multi-head latent attention, DeepSeek-AI 2024, section 2.1).

    kept of a token        [ c | k ]         c: latent, normed [kv_rank];  k: turned [turned_dim]
    key of head h          [ c K_h | k ]     value of head h    c V_h

Keys and values of heads are never made.  A query times a key is

    q . (c K_h) + q' . k  =  (q K_h^T) . c + q' . k

so the query takes K_h in, and attends over what is kept as over the keys of a single head that
all query heads share.  The values are the same latents, so one tensor is both, and V_h is applied
to what came out.  That is why ranks cannot share such a cache out: each would keep all of it.  DP
attention gives each group its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from workers.model.config import ModelConfig
from workers.model.feed_forward import Weights
from workers.model.kv_cache import LayerCache
from workers.model.projection import Projection
from workers.model.rms_norm import rms_norm
from workers.model.rope import rotate
from workers.model.self_attention import Here
from workers.model.shard import WHOLE, Place, Shard


class LatentAttention(torch.nn.Module):
    """shard: its part of the query heads.  The first adds the output's bias."""

    def __init__(self, config: ModelConfig, weight: Weights, shard: Shard = WHOLE) -> None:
        super().__init__()
        latent = config.latent
        assert latent is not None
        self._config, self._latent = config, latent
        self._heads = shard.of(config.num_heads)
        num_heads, hidden, has_bias = len(self._heads), config.hidden_size, config.attention_bias
        query_dim = latent.plain_dim + latent.turned_dim
        self.query_down: Projection | None = None
        self.query_norm: torch.nn.Parameter | None = None
        if latent.query_rank is not None:
            bias = weight(latent.query_rank) if has_bias else None
            self.query_down = Projection(weight(latent.query_rank, hidden), bias)
            self.query_norm = weight(latent.query_rank)
        self.query = Projection(weight(num_heads * query_dim, latent.query_rank or hidden))
        bias = weight(latent.cached_dim) if has_bias else None
        self.down = Projection(weight(latent.cached_dim, hidden), bias)
        self.norm = weight(latent.kv_rank)
        self.up = weight(num_heads * (latent.plain_dim + latent.value_dim), latent.kv_rank)
        bias = weight(hidden) if config.output_bias and shard.rank == 0 else None
        self.output = Projection(weight(hidden, num_heads * latent.value_dim), bias)

    def places(self) -> dict[str, Place]:
        """Return where each weight is kept, by its Hugging Face name below `self_attn`."""
        latent = self._latent
        query_dim = latent.plain_dim + latent.turned_dim
        up_dim = latent.plain_dim + latent.value_dim
        query = "q_proj" if self.query_down is None else "q_b_proj"
        found = {
            f"{query}.weight": self._heads_of(self.query.view(), 0, query_dim),
            "kv_b_proj.weight": self._heads_of(self.up, 0, up_dim),
            "o_proj.weight": self._heads_of(self.output.view(), 1, latent.value_dim),
            "kv_a_layernorm.weight": Place(self.norm),
            **_whole("kv_a_proj_with_mqa", self.down),
        }
        if self.query_down is not None and self.query_norm is not None:
            found |= _whole("q_a_proj", self.query_down)
            found["q_a_layernorm.weight"] = Place(self.query_norm)
        if self._config.output_bias:
            found["o_proj.bias"] = self._output_bias()
        return found

    def forward(self, rows: torch.Tensor, here: Here, cache: LayerCache) -> torch.Tensor:
        """
        Return this shard's summand of the output for rows, both [T, hidden_size].

        Stores what is kept of the new tokens.
        """
        latent = self._latent
        down = self.down(rows)
        kept = rms_norm(down[:, : latent.kv_rank].contiguous(), self.norm, self._eps)
        turned = self._turned(down[:, None, latent.kv_rank :], here)[:, 0]
        cache.keys[0].index_copy_(0, here.slots, torch.cat((kept, turned), dim=-1))
        up = self.up.view(len(self._heads), -1, latent.kv_rank)
        keys, values = torch.split(up, [latent.plain_dim, latent.value_dim], dim=1)
        queries = self._queries(rows, here, keys)
        attended = here.attention.attend(queries, cache)[..., : latent.kv_rank]
        outputs = torch.bmm(attended.transpose(0, 1), values.transpose(1, 2))
        output: torch.Tensor = self.output(outputs.transpose(0, 1).flatten(1))
        return output

    def _queries(self, rows: torch.Tensor, here: Here, keys: torch.Tensor) -> torch.Tensor:
        """Return [T, heads, cached_dim], which take keys [heads, plain_dim, kv_rank] in."""
        latent = self._latent
        if self.query_down is not None and self.query_norm is not None:
            rows = rms_norm(self.query_down(rows), self.query_norm, self._eps)
        head_dim = latent.plain_dim + latent.turned_dim
        heads = self.query(rows).view(len(rows), len(self._heads), head_dim)
        plain, turning = torch.split(heads, [latent.plain_dim, latent.turned_dim], dim=-1)
        taken_in = torch.bmm(plain.transpose(0, 1), keys).transpose(0, 1)
        queries = torch.cat((taken_in, self._turned(turning, here)), dim=-1)
        # Attention divides by the root of the width, which is none of the model's here.
        scale: float = latent.score_scale * latent.cached_dim**0.5
        return queries * scale

    def _turned(self, heads: torch.Tensor, here: Here) -> torch.Tensor:
        """Return heads [T, heads, turned_dim] turned by their positions."""
        if self._latent.is_interleaved:
            pairs = heads.reshape(*heads.shape[:-1], heads.shape[-1] // 2, 2)
            heads = pairs.transpose(-1, -2).reshape(heads.shape)
        return rotate(heads, *here.turn)

    @property
    def _eps(self) -> float:
        return self._config.rms_norm_eps

    def _heads_of(self, view: torch.Tensor, dim: int, width: int) -> Place:
        """Where that dimension has some of the heads, each of that width."""
        part = range(self._heads.start * width, self._heads.stop * width)
        return Place(view, dim, part, self._config.num_heads * width)

    def _output_bias(self) -> Place:
        """In the sum over ranks once."""
        if self.output.bias is not None:
            return Place(self.output.bias)
        return Place(self.up.new_empty(0), 0, range(0), self._config.hidden_size)


def _whole(name: str, projection: Projection) -> Mapping[str, Place]:
    found = {f"{name}.weight": Place(projection.view())}
    if projection.bias is not None:
        found[f"{name}.bias"] = Place(projection.bias)
    return found
