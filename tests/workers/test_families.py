"""Decoders of other families than Llama, beside transformers' own, from the files it writes."""

import warnings

import pytest
import torch

from tests.workers.test_llama import Run, load

SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
}
FAMILIES = {
    "mistral": {},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False, "head_dim": 32},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2_moe": QWEN_EXPERTS
    | {"shared_expert_intermediate_size": 56, "norm_topk_prob": True, "decoder_sparse_step": 2},
    "deepseek_v2": DEEPSEEK
    | {"q_lora_rank": None, "n_group": 3, "topk_group": 2, "topk_method": "group_limited_greedy"},
    "deepseek_v3": DEEPSEEK
    | {
        "q_lora_rank": 20,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": True,
        "attention_bias": True,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
        },
    },
    "qwen3_moe": QWEN_EXPERTS | {"norm_topk_prob": False, "mlp_only_layers": [1], "head_dim": 32},
}


def reference(family, settings):
    """Random weights, large enough to be decisive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(family, **SIZES | settings)
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config).float().eval()
    learned = [*model.named_parameters(), *_learned_buffers(model)]
    for name, weight in learned:
        noise = torch.randn(weight.shape)
        weight.data = 1 + 0.1 * noise if "norm" in name else 0.2 * noise
    return model


def _learned_buffers(model):
    return [each for each in model.named_buffers() if each[0].endswith("correction_bias")]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, tmp_path):
    """
    The same folder, read by both: every position's logits agree.
    """
    theirs = reference(family, FAMILIES[family])
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(3, 128, (40,), generator=torch.Generator().manual_seed(1)).tolist()

    ours = Run(load(tmp_path)).step([("a", tokens)])

    with torch.inference_mode():
        expected = theirs(torch.tensor([tokens])).logits[0]
    assert torch.allclose(ours, expected, atol=2e-4), (ours - expected).abs().max()
    assert torch.equal(ours.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v2", "deepseek_v3"])
def test_routers_have_the_dtype_of_the_family(family, tmp_path):
    """
    Whatever the model's is: DeepSeek's choose experts in float32.
    """
    reference(family, FAMILIES[family]).save_pretrained(tmp_path)

    run = Run(load(tmp_path, torch.bfloat16))

    named = run.model.named_parameters()
    expected = torch.bfloat16 if family == "mixtral" else torch.float32
    assert {each.dtype for name, each in named if name.endswith("router.weight")} == {expected}
    assert run.step([("a", [5, 9, 31])]).isfinite().all()
