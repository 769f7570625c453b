"""A Llama small enough for unit tests, written to disk as a real one is."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
CORPUS = """
    The quick brown fox jumps over the lazy dog, and the dog, who was not so lazy after all, ran
    after the fox. A load balancer looks at what each group of workers holds, and sends the next
    request where it will be hurt least. In the morning there were 12 apples, 34 pears and 5,678
    plums; in the evening there were none. What is the capital of France? The capital of France is
    Paris, which lies on the river Seine. Write a short story about a robot that learns to paint.
    def add(first, second): return first + second. Wie viele Straßen führen über den Fluß? Où est
    la gare, s'il vous plaît? It's true that they're here; we've seen them, I'm sure you'll agree.
"""


def write_tiny_llama(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write a random Llama to folder, CONFIG with changes, and return the folder."""
    config = CONFIG | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tiny_weights(config, seed), folder / "model.safetensors", {"format": "pt"})
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|im_end|>"},
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def tiny_weights(config: dict, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights under their Hugging Face names, large enough to be decisive."""
    random = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key_rows = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name, rows in (("q", hidden), ("k", key_rows), ("v", key_rows), ("o", hidden)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (rows, hidden)
            if config["attention_bias"]:
                shapes[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=random)
        weights[name] = 1 + 0.1 * noise if "norm" in name else 0.2 * noise
    return weights


def tiny_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer of 512 tokens, the first three special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS] * 2, trainer)
    return tokenizer
