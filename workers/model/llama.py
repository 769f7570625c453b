"""
A Llama-family decoder over a slot-addressed KV cache.

Plain torch, the same on every device and in every dtype.  Projections that
read the same input are one matrix: query, key and value; gate and up.  Each
Hugging Face weight is a view of its rows in such a matrix, and loading copies
into the view.  Loaded matrices are packed (see workers.model.projection), and
then have no views any more.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import embedding

from workers.model.attention import Attention, AttentionPlan
from workers.model.batch import ForwardBatch
from workers.model.checkpoint import Checkpoint
from workers.model.config import ModelConfig
from workers.model.errors import MissingTensors, ShapeMismatch, UnsupportedModel
from workers.model.feed_forward import DenseFeedForward, MixtureOfExperts, Weights
from workers.model.kv_cache import KVCache, LayerCache
from workers.model.latent_attention import LatentAttention
from workers.model.projection import Projection
from workers.model.rms_norm import rms_norm
from workers.model.rope import YarnScaling, angles, inverse_frequencies
from workers.model.row_exchange import ALONE, StepExchange
from workers.model.self_attention import Here, SelfAttention
from workers.model.shard import WHOLE, Place, Shard

__all__ = ["DecoderLayer", "KVCache", "LlamaModel"]


class DecoderLayer(torch.nn.Module):
    """Attention and feed-forward, each after a norm and added to its input."""

    def __init__(
        self,
        config: ModelConfig,
        number: int,
        weight: Weights,
        shard: Shard = WHOLE,
        attention_shard: Shard = WHOLE,
    ) -> None:
        super().__init__()
        self._eps = config.rms_norm_eps
        self.attention_norm = weight(config.hidden_size)
        kind = SelfAttention if config.latent is None else LatentAttention
        self.attention = kind(config, weight, attention_shard)
        self.feed_forward_norm = weight(config.hidden_size)
        self.feed_forward = _feed_forward(config, number, weight, shard)

    def places(self) -> dict[str, Place]:
        """Return where each weight of a Hugging Face layer is kept, by its name there."""
        found = {
            "input_layernorm.weight": Place(self.attention_norm),
            "post_attention_layernorm.weight": Place(self.feed_forward_norm),
        }
        for name, place in self.attention.places().items():
            found[f"self_attn.{name}"] = place
        for name, place in self.feed_forward.places().items():
            found[f"mlp.{name}"] = place
        return found

    def forward(
        self, hidden: torch.Tensor, here: Here, cache: LayerCache, exchange: StepExchange
    ) -> torch.Tensor:
        """
        Return the layer's output, and store the new keys and values.

        hidden: this rank's rows.  exchange: between ranks that have a part of the layer each.
        """
        normed = rms_norm(hidden, self.attention_norm, self._eps)
        # Not the modules themselves: a call around forward costs each layer some microseconds.
        attend = partial(self.attention.forward, here=here, cache=cache)
        hidden = hidden + exchange.attention.through(normed, attend)
        normed = rms_norm(hidden, self.feed_forward_norm, self._eps)
        output: torch.Tensor = hidden + exchange.tokens.through(normed, self.feed_forward.forward)
        return output


def _feed_forward(
    config: ModelConfig, number: int, weight: Weights, shard: Shard
) -> DenseFeedForward | MixtureOfExperts:
    experts = config.experts_of(number)
    if experts is None:
        return DenseFeedForward(config.hidden_size, config.intermediate_size, weight, shard)
    return MixtureOfExperts(config.hidden_size, experts, weight, shard)


class LlamaModel(torch.nn.Module):
    """
    The decoder.  Weights are undefined until `load`.

    Rows of a batch do not see each other except through attention within their
    own sequence; in float32 a greedy token does not depend on what else is in
    the batch, nor on how the prompt was cut into chunks.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device | str,
        dtype: torch.dtype,
        shard: Shard = WHOLE,
        attention_shard: Shard = WHOLE,
    ) -> None:
        """attention_shard: this rank's part of its group's heads; shard: of all else."""
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self._words = shard.of(config.vocab_size)
        self._widths = [len(part.of(config.vocab_size)) for part in shard.all()]
        shape = (len(self._words), config.hidden_size)
        self.embedding = self._weight(*shape)
        self.layers = torch.nn.ModuleList(
            DecoderLayer(config, number, self._weight, shard, attention_shard)
            for number in range(config.num_layers)
        )
        self.norm = self._weight(config.hidden_size)
        self.head = Projection(self.embedding if config.tie_embeddings else self._weight(*shape))
        scaling = config.rope_scaling
        frequencies = inverse_frequencies(config.turned_dim, config.rope_theta, scaling)
        self._inverse_frequency = frequencies.to(device)
        self._amplitude = scaling.amplitude if isinstance(scaling, YarnScaling) else 1.0

    def _weight(self, *shape: int) -> torch.nn.Parameter:
        values = torch.empty(shape, device=self.device, dtype=self.dtype)
        return torch.nn.Parameter(values, requires_grad=False)

    @property
    def num_bytes(self) -> int:
        """Of all weights, each once."""
        plain = (weight.numel() * weight.element_size() for weight in self.parameters())
        packed = (m.num_packed_bytes for m in self.modules() if isinstance(m, Projection))
        return sum(plain) + sum(packed)

    def places(self) -> dict[str, Place]:
        """Return where each Hugging Face weight is kept, by its name."""
        vocabulary = (0, self._words, self.config.vocab_size)
        found = {
            "model.embed_tokens.weight": Place(self.embedding, *vocabulary),
            "model.norm.weight": Place(self.norm),
        }
        if not self.config.tie_embeddings:
            found["lm_head.weight"] = Place(self.head.view(), *vocabulary)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            for name, place in layer.places().items():
                found[f"model.layers.{number}.{name}"] = place
        return found

    def load(self, checkpoint: Checkpoint) -> None:
        """
        Copy every weight in, converted to the model's dtype; once.

        Raises ShapeMismatch, MissingTensors, or UnsupportedModel for a weight that this
        architecture has no place for.
        """
        places = self.places()
        missing = set(places)
        for name, tensor in checkpoint.tensors():
            if self._is_left_out(name):
                continue
            if name not in places:
                raise UnsupportedModel("weight", name, ["those of a Llama decoder"])
            if tensor.shape != places[name].shape:
                raise ShapeMismatch(name, tensor.shape, places[name].shape)
            places[name].fill(tensor)
            missing.discard(name)
        if missing:
            raise MissingTensors(sorted(missing))
        for module in self.modules():
            if isinstance(module, Projection):
                module.pack()

    def _is_left_out(self, name: str) -> bool:
        """Whether that weight follows from others, or is for guessing tokens ahead."""
        config = self.config
        drafts = range(config.num_layers, config.num_layers + config.num_draft_layers)
        return (
            name.endswith("rotary_emb.inv_freq")
            or (name == "lm_head.weight" and config.tie_embeddings)
            or name.startswith(tuple(f"model.layers.{number}." for number in drafts))
        )

    @torch.inference_mode()
    def forward(
        self,
        batch: ForwardBatch,
        kv: KVCache,
        plan: AttentionPlan | None = None,
        exchange: StepExchange = ALONE,
    ) -> torch.Tensor:
        """
        Run the batch, store its keys and values in kv, return logits [R, vocab] float32.

        plan: the batch's, if it was made before.  exchange: between the ranks that have a shard
        each; they all run a batch at the same time, which may have no rows.  Those of one DP
        group run the same one, and who wants no logits names no rows.
        Row i of the logits belongs to row batch.output_index[i] of the token axis.
        """
        attention = Attention.begin(plan or AttentionPlan.of(batch, kv), kv)
        turn = angles(batch.positions, self._inverse_frequency, self.dtype, self._amplitude)
        here = Here(attention, turn, batch.slots)
        own_ids = exchange.attention.own(batch.token_ids)
        hidden = exchange.tokens.through(own_ids, self._embedded)
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, here, kv.layer(number), exchange)
        if exchange.outputs.is_empty:
            return hidden.new_empty((0, self.config.vocab_size), dtype=torch.float32)
        wanted = exchange.attention.whole(hidden)[batch.output_index]
        wanted = rms_norm(wanted, self.norm, self.config.rms_norm_eps)
        logits = exchange.outputs.columns(wanted, self.head, self._widths)
        return logits.float()

    def _embedded(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the rows [T, hidden_size] of tokens; zeros for those that other ranks have."""
        if len(self._words) == self.config.vocab_size:
            return embedding(token_ids, self.embedding)
        own = token_ids - self._words.start
        is_elsewhere = (own < 0) | (own >= len(self._words))
        rows = embedding(own.masked_fill(is_elsewhere, 0), self.embedding)
        return rows.masked_fill(is_elsewhere[:, None], 0)
