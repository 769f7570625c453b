import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.tiny import write_tiny_llama
from workers.model.checkpoint import open_checkpoint
from workers.model.errors import CorruptModel, InconsistentConfig, ModelError, UnsupportedModel
from workers.model.rope import Llama3Scaling

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return write_tiny_llama(tmp_path / "model")


def edit(path, **changes):
    """Change keys of a JSON file; None removes the key."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def shard(folder):
    weights = load_file(folder / "model.safetensors")
    names = list(weights)
    shard_of = {}
    for number, part in enumerate((names[:7], names[7:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        shard_of |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    return weights


def test_shards_are_one_model(folder):
    """
    Every weight of every shard is there once.
    """
    expected = shard(folder)

    found = list(open_checkpoint(folder).tensors())

    assert sorted(name for name, _ in found) == sorted(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found)


def test_a_shard_that_is_not_there_is_named(folder):
    """
    An interrupted download is told from a broken model.
    """
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CorruptModel, match=r"shard model-00002-of-00002\.safetensors does not"):
        list(open_checkpoint(folder).tensors())


def test_truncated_weights_are_corrupt(folder):
    """
    The file is named.
    """
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50_000])

    with pytest.raises(CorruptModel, match=r"model\.safetensors: corrupt or truncated"):
        list(open_checkpoint(folder).tensors())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", '{"a": ', "[]"])
def test_broken_json_is_corrupt(folder, name, text):
    """
    Whichever file it is, it is named.
    """
    (folder / name).write_text(text)

    with pytest.raises(CorruptModel, match=name):
        open_checkpoint(folder).tokenizer()


def test_end_tokens_come_from_both_configurations(folder):
    """
    Chat models often name the end of a turn only in generation_config.json.
    """
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')

    assert open_checkpoint(folder).config.eos_token_ids == (2, 0)
    assert open_checkpoint(folder).tokenizer().eos_token_ids == (2, 0)


def test_the_template_file_goes_before_the_one_in_the_settings(folder):
    """
    As transformers has it since templates have a file of their own.
    """
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")

    assert open_checkpoint(folder).tokenizer().render_chat(MESSAGES) == "<|im_start|>hi"


def test_of_several_templates_the_default_one_is_taken(folder):
    """
    Some models have one more, for tools.
    """
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    edit(folder / "tokenizer_config.json", chat_template=templates)

    assert open_checkpoint(folder).tokenizer().render_chat(MESSAGES) == "yes"


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_both_spellings_of_rope_scaling_are_read(folder, key):
    """
    Files of transformers 4 and 5 differ in the key, and in where the base stands.
    """
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    edit(folder / "config.json", rope_theta=None, **{key: rope})

    config = open_checkpoint(folder).config

    assert config.rope_theta == 500_000.0
    assert config.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "gpt2"}, UnsupportedModel, "model_type 'gpt2' is not supported"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act 'gelu'"),
        ({"mlp_bias": True}, UnsupportedModel, "mlp_bias True"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, UnsupportedModel, "rope scaling 'dynamic'"),
        ({"quantization_config": {"quant_method": "fp8"}}, UnsupportedModel, "quantization 'fp8'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, CorruptModel, "KeyError 'factor'"),
        ({"hidden_size": None}, CorruptModel, "KeyError 'hidden_size'"),
        ({"num_hidden_layers": 0}, InconsistentConfig, "num_layers is 0"),
        ({"num_key_value_heads": 3}, InconsistentConfig, "num_heads 4 is no multiple"),
        ({"head_dim": 15}, InconsistentConfig, "head_dim 15 is odd"),
    ],
)
def test_what_cannot_run_is_refused_when_opened(folder, changes, error, message):
    """
    Before any weight is read, and with the value that was found.
    """
    edit(folder / "config.json", **changes)

    with pytest.raises(error, match=message) as caught:
        open_checkpoint(folder)
    assert isinstance(caught.value, ModelError)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_folder_in_another_format_says_what_is_needed(folder, name):
    """
    Pickled weights and sentence-piece tokenizers are not read.
    """
    (folder / name).unlink()
    checkpoint = open_checkpoint(folder)

    with pytest.raises(UnsupportedModel, match=f"supported: {name}"):
        [checkpoint.tokenizer(), *checkpoint.tensors()]
