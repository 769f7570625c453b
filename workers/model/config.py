"""The numbers that define a Llama-family decoder, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from workers.model.errors import InconsistentConfig
from workers.model.rope import RopeScaling
from workers.model.shard import Shard

_COUNTS = (
    "num_layers",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "max_model_len",
)


class ExpertGroups(NamedTuple):
    """
    Experts in groups of one size, of which a token sees some.

    num_best: a group's score is the sum of so many, its best.
    """

    num_groups: int
    num_chosen: int
    num_best: int = 1

    def check(self, num_experts: int, num_wanted: int) -> None:
        """Raise InconsistentConfig if experts do not go up in such groups."""
        size, left = divmod(num_experts, self.num_groups)
        if left or size < self.num_best:
            raise InconsistentConfig(f"{num_experts} experts in {self.num_groups} groups")
        if not num_wanted <= size * self.num_chosen <= num_experts:
            raise InconsistentConfig(
                f"{num_wanted} experts are chosen, of {self.num_chosen} groups of {size}"
            )


@dataclass(frozen=True)
class LatentConfig:
    """
    Attention that keeps one latent per token, of which all heads make keys and values
    (multi-head latent attention: DeepSeek-AI 2024, section 2.1).

    kv_rank: numbers in the latent.  query_rank: in that of the queries; None: they have none.
    plain_dim, turned_dim: of a head's query and key, without and with a position.
    value_dim: of a head's value.  score_scale: of a query times a key.
    is_interleaved: pairs that turn together lie side by side in the weights.
    """

    kv_rank: int
    query_rank: int | None
    plain_dim: int
    turned_dim: int
    value_dim: int
    score_scale: float
    is_interleaved: bool = True

    @property
    def cached_dim(self) -> int:
        """Numbers that are kept of a token: its latent, and the key's turned part."""
        return self.kv_rank + self.turned_dim


@dataclass(frozen=True)
class ExpertsConfig:
    """
    Mixture-of-experts layers.  Raises InconsistentConfig.

    num_chosen: experts that each token sees.  intermediate_size: of each expert.
    shared_intermediate_size: of the expert that every token sees; 0 if there is none.
    normalises: the weights of the chosen ones add up to 1, before `scale`.
    groups: a token sees experts of the best groups of theirs; None: of all.
    is_sigmoid: each score by itself, instead of a softmax over all.
    has_choice_bias: what is added to scores to choose by, but not to weights.
    is_routed_in_float32: scores are computed in that, whatever the model's dtype is.
    dense_layers: layers that have one feed-forward for all tokens instead.
    is_expert_parallel: ranks have some experts each, and not a part of every one.
    """

    num_experts: int
    num_chosen: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    has_shared_gate: bool = False
    normalises: bool = True
    scale: float = 1.0
    groups: ExpertGroups | None = None
    is_sigmoid: bool = False
    has_choice_bias: bool = False
    is_routed_in_float32: bool = False
    dense_layers: frozenset[int] = frozenset()
    is_expert_parallel: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.num_chosen <= self.num_experts:
            raise InconsistentConfig(
                f"{self.num_chosen} experts are chosen for each token, of {self.num_experts}"
            )
        if self.groups is not None:
            self.groups.check(self.num_experts, self.num_chosen)
        if self.intermediate_size < 1 or self.shared_intermediate_size < 0:
            raise InconsistentConfig(f"experts of size {self.intermediate_size}")


@dataclass(frozen=True)
class ModelConfig:
    """
    Shape and constants of a model.  Raises InconsistentConfig.

    attention_bias: the query, key and value projections add a bias; output_bias: the output
    projection does.  has_qk_norm: each head of queries and keys is normed before it is turned.
    experts: None if every layer has one feed-forward for all tokens.
    latent: what is kept of a token is no heads' keys and values, but this; as keys of one head.
    num_draft_layers: behind the others, for guessing further tokens; they are not loaded.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    max_model_len: int
    tie_embeddings: bool
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    output_bias: bool = False
    has_qk_norm: bool = False
    experts: ExpertsConfig | None = None
    latent: LatentConfig | None = None
    num_draft_layers: int = 0

    @property
    def turned_dim(self) -> int:
        """Numbers of a head that turn with its position."""
        return self.head_dim if self.latent is None else self.latent.turned_dim

    @property
    def num_shareable_heads(self) -> int:
        """Among how many ranks attention can be shared."""
        return self.num_kv_heads if self.latent is None else self.num_heads

    def kv_heads_of(self, shard: Shard) -> range:
        """The key heads of a rank; a latent is whole on each."""
        return range(1) if self.latent is not None else shard.of(self.num_kv_heads)

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """Those of that layer; None if it is a dense one."""
        if self.experts is None or layer in self.experts.dense_layers:
            return None
        return self.experts

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise InconsistentConfig(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.num_heads % self.num_kv_heads:
            raise InconsistentConfig(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.latent is not None and (self.num_kv_heads, self.head_dim) != (
            1,
            self.latent.cached_dim,
        ):
            raise InconsistentConfig(
                f"{self.num_kv_heads} key heads of {self.head_dim}; a latent is one of "
                f"{self.latent.cached_dim}"
            )
        if self.turned_dim % 2:
            raise InconsistentConfig(f"head_dim {self.turned_dim} is odd; rotation needs pairs")
