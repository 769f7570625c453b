"""The numbers that define a Llama-family decoder, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass

from workers.model.errors import InconsistentConfig
from workers.model.rope import RopeScaling

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


@dataclass(frozen=True)
class ExpertsConfig:
    """
    Mixture-of-experts layers.  Raises InconsistentConfig.

    num_chosen: experts that each token sees.  intermediate_size: of each expert.
    shared_intermediate_size: of the expert that every token sees; 0 if there is none.
    normalises: the weights of the chosen ones add up to 1, before `scale`.
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
    dense_layers: frozenset[int] = frozenset()
    is_expert_parallel: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.num_chosen <= self.num_experts:
            raise InconsistentConfig(
                f"{self.num_chosen} experts are chosen for each token, of {self.num_experts}"
            )
        if self.intermediate_size < 1 or self.shared_intermediate_size < 0:
            raise InconsistentConfig(f"experts of size {self.intermediate_size}")


@dataclass(frozen=True)
class ModelConfig:
    """
    Shape and constants of a model.  Raises InconsistentConfig.

    attention_bias: the query, key and value projections add a bias; output_bias: the output
    projection does.  has_qk_norm: each head of queries and keys is normed before it is turned.
    experts: None if every layer has one feed-forward for all tokens.
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
        if self.head_dim % 2:
            raise InconsistentConfig(f"head_dim {self.head_dim} is odd; rotation needs pairs")
