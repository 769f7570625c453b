import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from safetensors.torch import load_file

from tests.workers.tiny import CHAT_TEMPLATE, CORPUS, write_tiny_llama
from workers.model.checkpoint import open_checkpoint
from workers.model.errors import CorruptModel, UnsupportedModel
from workers.model.gguf_file import hugging_face_name
from workers.model.rope import FactorScaling

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    for long, short in LAYER_NAMES.items():
        name = name.replace(long, short)
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for long, short in outer.items():
        name = name.replace(long, short)
    return name.replace("model.layers", "blk")


def interleaved(weight, num_heads):
    """Reorder a head's rows as the converter to GGUF does: halves to neighbouring pairs."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def gguf_values(folder, config):
    """Return the metadata of the Hugging Face Llama in folder, as a GGUF file has it."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    return {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocab,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(vocab) - 3),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def write_gguf(folder, path, *, quantized=(), rope_factors=None, changes=None):
    """Write the Hugging Face Llama in folder as a GGUF file; None in changes leaves a key out."""
    config = json.loads((folder / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    values = gguf_values(folder, config) | (changes or {})
    writer = GGUFWriter(path, values.pop("general.architecture", "llama"))
    for key, value in values.items():
        add_value(writer, key, value)
    for name, tensor in load_file(folder / "model.safetensors").items():
        weight, kind = tensor.numpy(), name.split(".")[-2]
        if kind in heads:
            weight = interleaved(weight, heads[kind])
        if name in quantized:
            q8 = GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(name), quantize(weight, q8), raw_dtype=q8)
        else:
            writer.add_tensor(gguf_name(name), weight)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(rope_factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer, key, value):
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    if value is not None:
        adders[type(value)](key, value)


@pytest.fixture(scope="module", name="path")
def _path(tiny_llama, tmp_path_factory):
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_is_the_folder_that_it_was_made_from(tiny_llama, path):
    """
    Configuration, tokenizer, and every weight by name and layout.
    """
    ours, folder = open_checkpoint(path), open_checkpoint(tiny_llama)

    found, expected = dict(ours.tensors()), dict(folder.tensors())
    assert ours.config.rms_norm_eps == pytest.approx(folder.config.rms_norm_eps)
    assert ours.config.__dict__ | {"rms_norm_eps": 0} == folder.config.__dict__ | {
        "rms_norm_eps": 0
    }
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert ours.tokenizer().encode(CORPUS) == folder.tokenizer().encode(CORPUS)
    assert ours.tokenizer().eos_token_ids == folder.tokenizer().eos_token_ids


def test_biased_and_untied_weights_are_found(tmp_path):
    """
    Both are told from the tensors that are there; biases of heads are reordered too.
    """
    changes = {"attention_bias": True, "tie_word_embeddings": False}
    folder = write_tiny_llama(tmp_path / "folder", **changes)

    ours = open_checkpoint(write_gguf(folder, tmp_path / "biased.gguf"))

    assert (ours.config.attention_bias, ours.config.tie_embeddings) == (True, False)
    found, expected = dict(ours.tensors()), load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_quantised_weights_are_dequantised(tiny_llama, tmp_path):
    """
    A Q8_0 weight comes out as the gguf package dequantises it.
    """
    name = "model.layers.0.mlp.up_proj.weight"
    ours = open_checkpoint(write_gguf(tiny_llama, tmp_path / "q8.gguf", quantized=[name]))

    weight = load_file(tiny_llama / "model.safetensors")[name].numpy()
    kind = GGMLQuantizationType.Q8_0
    expected = torch.from_numpy(dequantize(quantize(weight, kind), kind))
    assert torch.equal(dict(ours.tensors())[name], expected)


def test_stretched_frequencies_are_a_scaling_and_no_weight(tiny_llama, tmp_path):
    """
    Long-context Llamas come with a factor for each frequency.
    """
    factors = [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0]
    ours = open_checkpoint(write_gguf(tiny_llama, tmp_path / "long.gguf", rope_factors=factors))

    assert ours.config.rope_scaling == FactorScaling(tuple(factors))
    assert not any("rope" in name for name, _ in ours.tensors())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba' is not supported; .*: llama"),
        ({"llama.expert_count": 8}, "supported: dense llama"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
    ],
)
def test_what_cannot_run_is_refused_when_opened(tiny_llama, tmp_path, changes, message):
    """
    The message says what the file asks for and what there is.
    """
    path = write_gguf(tiny_llama, tmp_path / "odd.gguf", changes=changes)

    with pytest.raises(UnsupportedModel, match=message):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"), [("llama.block_count", None), ("llama.attention.head_count_kv", [2, 2])]
)
def test_a_missing_or_mistyped_number_is_named(tiny_llama, tmp_path, key, value):
    """
    A file without a number that the model needs is corrupt.
    """
    path = write_gguf(tiny_llama, tmp_path / "odd.gguf", changes={key: value})

    with pytest.raises(CorruptModel, match=f"{key} is .*, not an integer"):
        open_checkpoint(path)


def test_a_tensor_of_another_architecture_is_refused():
    """
    Nothing is loaded under a guessed name.
    """
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ssm_in\.weight"):
        hugging_face_name("blk.0.ssm_in.weight")


def test_a_file_that_shrinks_while_it_is_read_is_called_corrupt(path, tmp_path):
    """
    A download that starts anew under an open checkpoint does not become weights.
    """
    copy = Path(tmp_path / "copy.gguf")
    copy.write_bytes(path.read_bytes())
    checkpoint = open_checkpoint(copy)
    copy.write_bytes(path.read_bytes()[:60_000])

    with pytest.raises(CorruptModel, match="cut short"):
        list(checkpoint.tensors())
