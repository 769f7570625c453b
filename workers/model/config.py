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
class ModelConfig:
    """
    Shape and constants of a model.  Raises InconsistentConfig.

    attention_bias: the query, key, value and output projections add a bias.
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
