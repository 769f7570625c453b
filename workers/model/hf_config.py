"""
What a Hugging Face `config.json` says, for each family of decoders that is known here.

    model_type             attention                     feed-forward
    llama                  biases where they are said    dense
    mistral                no bias                       dense
    qwen2, qwen3           qkv biases; norms of heads    dense
    mixtral                no bias                       experts
    qwen2_moe              qkv biases                    experts, a shared one with a gate
    qwen3_moe              norms of heads                experts
    deepseek               no bias                       experts, a shared one, first layers dense
    deepseek_v2            latents of keys and values    the same, in groups
    deepseek_v3            the same                      the same, chosen by sigmoids and a bias
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workers.model.config import ExpertGroups, ExpertsConfig, LatentConfig, ModelConfig
from workers.model.errors import UnsupportedModel
from workers.model.rope import Llama3Scaling, YarnScaling, yarn_amplitude

Raw = Mapping[str, Any]


def model_config(raw: Raw, end_token_ids: tuple[int, ...]) -> ModelConfig:
    """
    Return the configuration.

    Raises UnsupportedModel, or KeyError, TypeError or ValueError for what is missing or is no
    number.
    """
    family = str(raw.get("model_type"))
    if family not in _EXPERTS:
        raise UnsupportedModel("model_type", family, sorted(_EXPERTS))
    _refuse_unsupported(raw)
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    num_heads = int(raw["num_attention_heads"])
    has_bias = bool(raw.get("attention_bias", False))
    scaling = _rope_scaling(raw, rope)
    latent = _latent(raw, rope) if family in _LATENT else None
    return ModelConfig(
        num_layers=int(raw["num_hidden_layers"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_heads=num_heads,
        num_kv_heads=1 if latent else int(raw.get("num_key_value_heads") or num_heads),
        head_dim=latent.cached_dim if latent else _head_dim(raw, num_heads),
        vocab_size=int(raw["vocab_size"]),
        rope_theta=_theta(raw, rope),
        rms_norm_eps=float(raw["rms_norm_eps"]),
        max_model_len=int(raw["max_position_embeddings"]),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        eos_token_ids=end_token_ids,
        bos_token_id=raw.get("bos_token_id"),
        rope_scaling=scaling,
        attention_bias=has_bias or family in ("qwen2", "qwen2_moe"),
        output_bias=has_bias,
        has_qk_norm=family in ("qwen3", "qwen3_moe"),
        experts=_EXPERTS[family](raw),
        latent=latent,
        num_draft_layers=int(raw.get("num_nextn_predict_layers") or 0),
    )


def plain_name(name: str) -> str:
    """Return a weight's name as the families here mostly have it."""
    if ".block_sparse_moe." in name:  # Mixtral's
        name = name.replace(".block_sparse_moe.", ".mlp.")
        for theirs, plain in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            name = name.replace(f".{theirs}.", f".{plain}.")
    return name.replace(".mlp.shared_experts.", ".mlp.shared_expert.")


def _none(raw: Raw) -> None:
    return None


def _mixtral(raw: Raw) -> ExpertsConfig:
    return ExpertsConfig(
        num_experts=int(raw["num_local_experts"]),
        num_chosen=int(raw["num_experts_per_tok"]),
        intermediate_size=int(raw["intermediate_size"]),
    )


def _qwen(raw: Raw) -> ExpertsConfig:
    """Every `decoder_sparse_step`th layer, counted from 1, has experts, but for mlp_only_layers."""
    step = int(raw.get("decoder_sparse_step", 1))
    layers = range(int(raw["num_hidden_layers"]))
    dense = {layer for layer in layers if (layer + 1) % step}
    has_shared = raw["model_type"] == "qwen2_moe"
    return ExpertsConfig(
        num_experts=int(raw.get("num_experts") or raw["num_local_experts"]),
        num_chosen=int(raw["num_experts_per_tok"]),
        intermediate_size=int(raw["moe_intermediate_size"]),
        shared_intermediate_size=int(raw["shared_expert_intermediate_size"]) if has_shared else 0,
        has_shared_gate=has_shared,
        normalises=bool(raw.get("norm_topk_prob", False)),
        dense_layers=frozenset(dense | set(map(int, raw.get("mlp_only_layers") or ()))),
    )


def _deepseek(raw: Raw) -> ExpertsConfig:
    """From layer `first_k_dense_replace` on, every `moe_layer_freq`th has experts."""
    first, every = int(raw.get("first_k_dense_replace", 0)), int(raw.get("moe_layer_freq", 1))
    layers = range(int(raw["num_hidden_layers"]))
    size = int(raw["moe_intermediate_size"])
    is_v3 = raw["model_type"] == "deepseek_v3"
    return ExpertsConfig(
        num_experts=int(raw["n_routed_experts"]),
        num_chosen=int(raw["num_experts_per_tok"]),
        intermediate_size=size,
        shared_intermediate_size=size * int(raw.get("n_shared_experts") or 0),
        normalises=bool(raw.get("norm_topk_prob", False)),
        scale=float(raw.get("routed_scaling_factor", 1.0)),
        groups=_expert_groups(raw),
        is_sigmoid=is_v3,
        has_choice_bias=is_v3,
        is_routed_in_float32=raw["model_type"] in _LATENT,
        dense_layers=frozenset(each for each in layers if each < first or each % every),
    )


def _expert_groups(raw: Raw) -> ExpertGroups | None:
    num_groups, num_chosen = int(raw.get("n_group") or 1), int(raw.get("topk_group") or 1)
    is_v3 = raw["model_type"] == "deepseek_v3"
    is_limited = is_v3 or raw.get("topk_method", "greedy") == "group_limited_greedy"
    if not is_limited or num_groups == 1:
        return None
    return ExpertGroups(num_groups, num_chosen, num_best=2 if is_v3 else 1)


def _latent(raw: Raw, rope: Raw) -> LatentConfig:
    plain, turned = int(raw["qk_nope_head_dim"]), int(raw["qk_rope_head_dim"])
    scale, weight = (plain + turned) ** -0.5, float(rope.get("mscale_all_dim") or 0)
    if _rope_kind(rope) == "yarn" and weight:
        scale *= yarn_amplitude(float(rope["factor"]), weight) ** 2
    rank = raw.get("q_lora_rank")
    return LatentConfig(
        kv_rank=int(raw["kv_lora_rank"]),
        query_rank=None if rank is None else int(rank),
        plain_dim=plain,
        turned_dim=turned,
        value_dim=int(raw["v_head_dim"]),
        score_scale=scale,
        is_interleaved=bool(raw.get("rope_interleave", True)),
    )


_LATENT = ("deepseek_v2", "deepseek_v3")
_EXPERTS: Mapping[str, Callable[[Raw], ExpertsConfig | None]] = {
    "llama": _none,
    "mistral": _none,
    "qwen2": _none,
    "qwen3": _none,
    "mixtral": _mixtral,
    "qwen2_moe": _qwen,
    "qwen3_moe": _qwen,
    "deepseek": _deepseek,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
}


def _refuse_unsupported(raw: Raw) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel("hidden_act", raw["hidden_act"], ["silu"])
    if raw.get("mlp_bias", False):
        raise UnsupportedModel("mlp_bias", True, [False])
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method")
        raise UnsupportedModel("quantization", method, ["none: bfloat16, float16 or float32"])
    window, longest = raw.get("sliding_window"), int(raw["max_position_embeddings"])
    if raw.get("use_sliding_window", True) and window is not None and int(window) < longest:
        raise UnsupportedModel("sliding_window", window, [None])


def _rope_kind(rope: Raw) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _theta(raw: Raw, rope: Raw) -> float:
    return float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0)


def _head_dim(raw: Raw, num_heads: int) -> int:
    return int(raw.get("head_dim") or int(raw["hidden_size"]) // num_heads)


def _rope_scaling(raw: Raw, rope: Raw) -> Llama3Scaling | YarnScaling | None:
    kind = _rope_kind(rope)
    if kind == "default":
        return None
    if kind == "yarn":
        return _yarn(rope, _theta(raw, rope))
    if kind != "llama3":
        raise UnsupportedModel("rope scaling", kind, ["default", "llama3", "yarn"])
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_len=int(rope["original_max_position_embeddings"]),
    )


def _yarn(rope: Raw, theta: float) -> YarnScaling:
    factor, amplitude = float(rope["factor"]), rope.get("attention_factor")
    if amplitude is None:
        weight, of_all = rope.get("mscale"), rope.get("mscale_all_dim")
        amplitude = yarn_amplitude(factor)
        if weight and of_all:
            of_scores = yarn_amplitude(factor, float(of_all))
            amplitude = yarn_amplitude(factor, float(weight)) / of_scores
    return YarnScaling(
        factor,
        int(rope["original_max_position_embeddings"]),
        theta,
        float(amplitude),
        float(rope.get("beta_fast") or 32),
        float(rope.get("beta_slow") or 1),
        bool(rope.get("truncate", True)),
    )
