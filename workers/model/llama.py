"""
A Llama-family decoder over a slot-addressed KV cache.

Plain torch, the same on every device and in every dtype.  Projections that
read the same input are one matrix: query, key and value; gate and up.  Each
Hugging Face weight is a view of its rows in such a matrix, and loading copies
into the view.  Loaded matrices are packed (see workers.model.projection), and
then have no views any more.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding

from workers.model.attention import Attention, AttentionPlan
from workers.model.batch import ForwardBatch
from workers.model.checkpoint import Checkpoint
from workers.model.config import ModelConfig
from workers.model.errors import MissingTensors, ShapeMismatch, UnsupportedModel
from workers.model.feed_forward import DenseFeedForward, MixtureOfExperts, Weights
from workers.model.kv_cache import KVCache, LayerCache
from workers.model.projection import Projection
from workers.model.rms_norm import rms_norm
from workers.model.rope import angles, inverse_frequencies, rotate
from workers.model.row_exchange import ALONE, RowExchange, StepExchange
from workers.model.shard import WHOLE, Place, Shard

__all__ = ["DecoderLayer", "KVCache", "LlamaModel"]


class DecoderLayer(torch.nn.Module):
    """Attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, config: ModelConfig, number: int, weight: Weights, shard: Shard) -> None:
        super().__init__()
        self._config = config
        hidden, heads = config.hidden_size, config.num_heads * config.head_dim
        num_qkv = heads + 2 * config.num_kv_heads * config.head_dim
        has_bias = config.attention_bias
        self.attention_norm = weight(hidden)
        self.qkv = Projection(weight(num_qkv, hidden), weight(num_qkv) if has_bias else None)
        self.attention_output = Projection(
            weight(hidden, heads), weight(hidden) if config.output_bias else None
        )
        self.qk_norms = torch.nn.ParameterList(
            weight(config.head_dim) for _ in "qk" if config.has_qk_norm
        )
        self.feed_forward_norm = weight(hidden)
        self.feed_forward = _feed_forward(config, number, weight, shard)

    def places(self) -> dict[str, Place]:
        """Return where each weight of a Hugging Face layer is kept, by its name there."""
        config = self._config
        kv_rows = config.num_kv_heads * config.head_dim
        rows = [config.num_heads * config.head_dim, kv_rows, kv_rows]
        views: dict[str, torch.Tensor] = {
            "input_layernorm.weight": self.attention_norm,
            "self_attn.o_proj.weight": self.attention_output.view(),
            "post_attention_layernorm.weight": self.feed_forward_norm,
        }
        for letter, view in zip("qkv", torch.split(self.qkv.view(), rows), strict=True):
            views[f"self_attn.{letter}_proj.weight"] = view
        if self.qkv.bias is not None:
            for letter, view in zip("qkv", torch.split(self.qkv.bias, rows), strict=True):
                views[f"self_attn.{letter}_proj.bias"] = view
        if self.attention_output.bias is not None:
            views["self_attn.o_proj.bias"] = self.attention_output.bias
        for letter, norm in zip("qk", self.qk_norms, strict=False):
            views[f"self_attn.{letter}_norm.weight"] = norm
        inner = {f"mlp.{name}": place for name, place in self.feed_forward.places().items()}
        return {name: Place(view) for name, view in views.items()} | inner

    def forward(
        self,
        hidden: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
        slots: torch.Tensor,
        cache: LayerCache,
        exchange: RowExchange,
    ) -> torch.Tensor:
        """
        Return the layer's output [T, hidden_size], and store the new keys and values.

        turn: cosine and sine of each row's position.  exchange: between ranks that have a
        part of the feed-forward each.
        """
        config = self._config
        normed = rms_norm(hidden, self.attention_norm, config.rms_norm_eps)
        num_turned = config.num_heads + config.num_kv_heads
        num_all = num_turned + config.num_kv_heads
        qkv = self.qkv(normed).view(len(hidden), num_all, config.head_dim)
        turned = rotate(self._normed(qkv[:, :num_turned]), *turn)
        cache.keys.index_copy_(1, slots, turned[:, config.num_heads :].transpose(0, 1))
        cache.values.index_copy_(1, slots, qkv[:, num_turned:].transpose(0, 1))
        attended = attention.attend(turned[:, : config.num_heads], cache).flatten(1)
        hidden = hidden + self.attention_output(attended)
        normed = rms_norm(hidden, self.feed_forward_norm, config.rms_norm_eps)
        output: torch.Tensor = hidden + exchange.through(normed, self.feed_forward)
        return output

    def _normed(self, heads: torch.Tensor) -> torch.Tensor:
        """Return heads of queries and keys [T, heads, head_dim], normed if the model norms them."""
        if not self.qk_norms:
            return heads
        config = self._config
        parts = torch.split(heads, [config.num_heads, config.num_kv_heads], dim=1)
        normed = [
            rms_norm(part.reshape(-1, config.head_dim), norm, config.rms_norm_eps).view_as(part)
            for part, norm in zip(parts, self.qk_norms, strict=True)
        ]
        return torch.cat(normed, dim=1)


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
    ) -> None:
        """shard: this rank's part of all that is not attention."""
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self._words = shard.of(config.vocab_size)
        self._widths = [len(part.of(config.vocab_size)) for part in shard.all()]
        shape = (len(self._words), config.hidden_size)
        self.embedding = self._weight(*shape)
        self.layers = torch.nn.ModuleList(
            DecoderLayer(config, number, self._weight, shard) for number in range(config.num_layers)
        )
        self.norm = self._weight(config.hidden_size)
        self.head = Projection(self.embedding if config.tie_embeddings else self._weight(*shape))
        frequencies = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self._inverse_frequency = frequencies.to(device)

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
            if name.endswith("rotary_emb.inv_freq") or (
                name == "lm_head.weight" and self.config.tie_embeddings
            ):
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
        each; they all run a batch at the same time, which may have no rows.
        Row i of the logits belongs to row batch.output_index[i] of the token axis.
        """
        attention = Attention.begin(plan or AttentionPlan.of(batch, kv), kv)
        turn = angles(batch.positions, self._inverse_frequency, self.dtype)
        hidden = exchange.tokens.through(batch.token_ids, self._embedded)
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, turn, attention, batch.slots, kv.layer(number), exchange.tokens)
        wanted = hidden[batch.output_index]
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
