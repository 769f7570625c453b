"""The real default model, against transformers with the same weights."""

import warnings

import pytest
import torch
from gguf import GGUFReader, dequantize

from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import KVCache, LlamaModel

pytestmark = [pytest.mark.model, pytest.mark.slow]

NUM_TOKENS = 24
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Add 17 and 25.",
    "Translate to German: Good morning, how are you today?",
    "Name three primary colours.",
    "Why is the sky blue? Answer in one sentence.",
    "def fibonacci(n):",
    "Tell me a story about a robot \U0001f916 that learns to paint, and its friend, an old cat.",
]


@pytest.fixture(scope="module", name="checkpoint")
def _checkpoint(default_model):
    return open_checkpoint(default_model)


@pytest.fixture(scope="module", name="model")
def _model(checkpoint):
    model = LlamaModel(checkpoint.config, "cpu", torch.float32)
    model.load(checkpoint)
    return model


@pytest.fixture(scope="module", name="reference")
def _reference(checkpoint):
    """A LlamaForCausalLM of transformers holding the checkpoint's weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig, LlamaForCausalLM

        config = checkpoint.config
        reference = LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=config.num_layers,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_model_len,
                rms_norm_eps=config.rms_norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                tie_word_embeddings=config.tie_embeddings,
            )
        )
    missing, unexpected = reference.load_state_dict(dict(checkpoint.tensors()), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    reference.tie_weights()
    return reference.eval()


def step(model, kv, chunks):
    """Run one chunk of each sequence, (slots of the whole of it, its new tokens) each."""
    spans = tuple(SequenceSpan(len(new), len(slots), slots) for slots, new in chunks)
    starts = [span.num_total - span.num_new for span in spans]
    batch = ForwardBatch(
        torch.tensor([token for _, new in chunks for token in new]),
        torch.cat([torch.arange(at, s.num_total) for at, s in zip(starts, spans, strict=True)]),
        torch.cat([span.slot_index[at:] for at, span in zip(starts, spans, strict=True)]),
        spans,
        torch.tensor([span.num_new for span in spans]).cumsum(0) - 1,
    )
    return model(batch, kv)


def in_one_piece(model, tokens):
    """Return the logits of every position of one sequence."""
    positions = torch.arange(len(tokens))
    span = SequenceSpan(len(tokens), len(tokens), positions)
    kv = KVCache.allocate(model.config, len(tokens), "cpu", torch.float32)
    return model(ForwardBatch(tokens, positions, positions, (span,), positions), kv)


def decode_greedily(model, prompts, chunk_size):
    """Return NUM_TOKENS greedy tokens of each prompt, all of them in one batch."""
    longest = max(map(len, prompts)) + NUM_TOKENS
    kv = KVCache.allocate(model.config, len(prompts) * longest, "cpu", torch.float32)
    scattered = torch.randperm(len(prompts) * longest, generator=torch.Generator().manual_seed(0))
    slots, new, sequences = scattered.split(longest), [], [list(prompt) for prompt in prompts]
    for row, prompt in zip(slots, prompts, strict=True):
        for start in range(0, len(prompt), chunk_size):
            chunk = prompt[start : start + chunk_size]
            logits = step(model, kv, [(row[: start + len(chunk)], chunk)])
        new.append([int(logits.argmax())])
    for _ in range(NUM_TOKENS - 1):
        for sequence, tokens in zip(sequences, new, strict=True):
            sequence += tokens
        held = [row[: len(sequence)] for row, sequence in zip(slots, sequences, strict=True)]
        logits = step(model, kv, list(zip(held, new, strict=True)))
        new = [[token] for token in logits.argmax(dim=-1).tolist()]
    return [
        (sequence + tokens)[len(prompt) :]
        for sequence, tokens, prompt in zip(sequences, new, prompts, strict=True)
    ]


def test_greedy_text_is_that_of_transformers_alone_and_batched(checkpoint, model, reference):
    """
    Eight conversations in float32, together, prompts in chunks of 16 at scattered
    slots: each of their 24 tokens is what the reference, and the model itself given
    the one conversation in one piece, find most probable after all those before it.
    The shortest and the longest are also decoded alone, token by token.
    """
    codec = checkpoint.tokenizer()
    prompts = [codec.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]

    together = decode_greedily(model, prompts, chunk_size=16)

    for prompt, tokens in zip(prompts, together, strict=True):
        sequence = torch.tensor([prompt + tokens])
        with torch.inference_mode():
            theirs = reference(sequence).logits[0]
        ours = in_one_piece(model, sequence[0])
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
        for logits in (ours, theirs):
            assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == tokens
    for prompt in (min(prompts, key=len), max(prompts, key=len)):
        alone = decode_greedily(model, [prompt], chunk_size=1000)
        assert alone == [together[prompts.index(prompt)]]
    assert codec.decode(together[0]).startswith("The capital of France is Paris.")


def test_weights_are_those_that_the_gguf_package_reads(checkpoint, default_model):
    """
    One plain and one reordered weight, checked against the package's own reader.

    A query head's row 2i of the file is row i of its first half, row 2i + 1 row i of the second.
    """
    raw = {tensor.name: tensor for tensor in GGUFReader(default_model).tensors}

    def read(name):
        return torch.from_numpy(dequantize(raw[name].data, raw[name].tensor_type))

    found = dict(checkpoint.tensors())
    assert torch.equal(found["model.layers.3.mlp.down_proj.weight"], read("blk.3.ffn_down.weight"))
    query, stored = found["model.layers.3.self_attn.q_proj.weight"], read("blk.3.attn_q.weight")
    for head in range(0, 9 * 64, 64):
        assert torch.equal(query[head : head + 32], stored[head : head + 64 : 2])
        assert torch.equal(query[head + 32 : head + 64], stored[head + 1 : head + 64 : 2])


def test_text_is_cut_as_the_model_was_trained(checkpoint):
    """
    The file's pre-tokenizer, smollm: every digit alone, a space before a word part of it.
    """
    codec = checkpoint.tokenizer()

    pieces = [codec.token_text(token_id) for token_id in codec.encode("In 2024 I'm\n\n  here")]

    assert pieces == ["In", " ", "2", "0", "2", "4", " I", "'m", "\n\n ", " here"]
    assert codec.eos_token_ids == (2,)
