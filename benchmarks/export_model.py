"""
Write a model as a Hugging Face folder, in bfloat16, for servers that read no GGUF.

    python -m benchmarks.export_model ~/.cache/levelhead/SmolLM2-135M-Instruct.Q4_1.gguf DIR

What comes out has the very weights that levelhead computes with in bfloat16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from workers.model.checkpoint import open_checkpoint
from workers.model.config import ModelConfig


def config_json(config: ModelConfig) -> dict[str, object]:
    """config.json of a Llama without stretched rope."""
    assert config.rope_scaling is None
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_model_len,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "torch_dtype": "bfloat16",
    }


def export(source: Path, folder: Path) -> None:
    """Write weights, config and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(source)
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in checkpoint.tensors()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint.tokenizer().save(folder)
    (folder / "config.json").write_text(json.dumps(config_json(checkpoint.config), indent=1))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer |= json.loads((folder / "chat.json").read_text())  # template, and special tokens
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    checkpoint.close()


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
