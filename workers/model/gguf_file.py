"""
A model in one GGUF file.

Weights are dequantised to float32 one at a time.  GGUF stores the rows of a
query or key head for rotary pairs that lie side by side; they are put back
into halves, the layout that `workers.model.rope` and Hugging Face use:

    in the file   a0 b0 a1 b1 a2 b2 ...      here   a0 a1 a2 ... b0 b1 b2 ...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gguf import dequantize

from workers.model.config import ModelConfig
from workers.model.errors import CorruptModel, UnsupportedModel
from workers.model.gguf_header import TensorInfo, Value, read_header
from workers.model.gguf_tokenizer import build_tokenizer, end_token_ids
from workers.model.rope import FactorScaling
from workers.model.text import TextCodec

_OUTER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"


class GgufFile:
    """
    An opened GGUF file; see `workers.model.checkpoint.Checkpoint`.

    Raises CorruptModel or UnsupportedModel.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header = read_header(path)
        self._values, self._infos = header.values, header.tensors
        self._config = self._read_config()

    @property
    def config(self) -> ModelConfig:
        """The model's shape and constants."""
        return self._config

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each weight, float32, under its Hugging Face name."""
        for name, info in self._infos.items():
            if name == _ROPE_FACTORS:
                continue
            yield hugging_face_name(name), self._in_halves(name, self._read(info))

    def tokenizer(self) -> TextCodec:
        """Build the tokenizer from the file's vocabulary and merges."""
        return build_tokenizer(self._path, self._values)

    def close(self) -> None:
        """Do nothing: the file is open only while something is read from it."""

    def _read(self, info: TensorInfo) -> torch.Tensor:
        data = np.fromfile(self._path, np.uint8, info.num_bytes, offset=info.offset)
        if len(data) < info.num_bytes:
            raise CorruptModel(self._path, f"the file was cut short while {info.name} was read")
        try:
            values = dequantize(data.reshape(*info.shape[:-1], -1), info.quantization)
        except NotImplementedError as error:
            supported = ["F32", "F16", "BF16", "Q4_0 to Q8_0", "K-quants", "IQ-quants"]
            raise UnsupportedModel("quantization", info.quantization.name, supported) from error
        return torch.from_numpy(values).reshape(info.shape)

    def _in_halves(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        kind = name.split(".")[-2]
        if kind not in ("attn_q", "attn_k"):
            return tensor
        num_heads = self.config.num_heads if kind == "attn_q" else self.config.num_kv_heads
        if tensor.shape[0] != num_heads * self.config.head_dim:
            return tensor  # the model will refuse the shape by name
        pairs = tensor.reshape(num_heads, self.config.head_dim // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(tensor.shape)

    def _read_config(self) -> ModelConfig:
        self._refuse_unsupported()
        num_heads = self._integer("llama.attention.head_count")
        hidden_size = self._integer("llama.embedding_length")
        embedding = self._infos.get("token_embd.weight")
        if embedding is None:
            raise CorruptModel(self._path, "no tensor token_embd.weight")
        return ModelConfig(
            num_layers=self._integer("llama.block_count"),
            hidden_size=hidden_size,
            intermediate_size=self._integer("llama.feed_forward_length"),
            num_heads=num_heads,
            num_kv_heads=self._integer("llama.attention.head_count_kv", num_heads),
            head_dim=self._integer("llama.attention.key_length", hidden_size // max(1, num_heads)),
            vocab_size=embedding.shape[0],
            rope_theta=self._real("llama.rope.freq_base", 10_000.0),
            rms_norm_eps=self._real("llama.attention.layer_norm_rms_epsilon"),
            max_model_len=self._integer("llama.context_length"),
            tie_embeddings="output.weight" not in self._infos,
            eos_token_ids=end_token_ids(self._values),
            bos_token_id=_optional_id(self._values, "tokenizer.ggml.bos_token_id"),
            rope_scaling=self._rope_factors(),
            attention_bias="blk.0.attn_q.bias" in self._infos,
            output_bias="blk.0.attn_output.bias" in self._infos,
        )

    def _refuse_unsupported(self) -> None:
        architecture = self._values.get("general.architecture")
        if architecture != "llama":
            raise UnsupportedModel("architecture", architecture, ["llama"])
        if self._values.get("llama.expert_count", 0) != 0:
            raise UnsupportedModel("architecture", "llama with experts", ["dense llama"])
        scaling = self._values.get("llama.rope.scaling.type", "none")
        if scaling != "none":
            raise UnsupportedModel("rope scaling", scaling, ["none", f"tensor {_ROPE_FACTORS}"])

    def _rope_factors(self) -> FactorScaling | None:
        info = self._infos.get(_ROPE_FACTORS)
        return None if info is None else FactorScaling(tuple(self._read(info).tolist()))

    def _integer(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int):
            raise CorruptModel(self._path, f"{key} is {value!r}, not an integer")
        return value

    def _real(self, key: str, default: float | None = None) -> float:
        value = self._values.get(key, default)
        if not isinstance(value, float):
            raise CorruptModel(self._path, f"{key} is {value!r}, not a real number")
        return value


def hugging_face_name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor.  Raises UnsupportedModel."""
    stem, _, ending = name.rpartition(".")
    if stem in _OUTER_NAMES:
        return f"{_OUTER_NAMES[stem]}.{ending}"
    match stem.split("."):
        case ["blk", number, kind] if kind in _LAYER_NAMES:
            return f"model.layers.{number}.{_LAYER_NAMES[kind]}.{ending}"
    raise UnsupportedModel("tensor", name, [*_OUTER_NAMES, *_LAYER_NAMES])


def _optional_id(values: dict[str, Value], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) else None
