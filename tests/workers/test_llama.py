import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.workers.tiny import write_tiny_llama
from workers.model.attention import Attention, AttentionPlan
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.checkpoint import open_checkpoint
from workers.model.config import ModelConfig
from workers.model.errors import MissingTensors, ShapeMismatch, UnsupportedModel
from workers.model.llama import KVCache, LlamaModel
from workers.model.row_exchange import ALONE
from workers.model.shard import WHOLE

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "biased": {"attention_bias": True},
    "one-head-a-key": {"num_key_value_heads": 4},
    "stretched": {"rope_scaling": LLAMA3_ROPE},
}
PROMPTS = [list(range(5, 5 + n)) for n in (1, 2, 9, 30)]
NUM_SLOTS = 512


TINY = ModelConfig(1, 8, 8, 1, 1, 8, 16, 1e4, 1e-5, 64, True, (), None)


def load(folder, dtype=torch.float32):
    checkpoint = open_checkpoint(folder)
    model = LlamaModel(checkpoint.config, "cpu", dtype)
    model.load(checkpoint)
    return model


def load_reference(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Run:
    """Sequences in one KV cache, each at slots drawn at random from the whole of it."""

    def __init__(self, model, seed=0, attention_shard=WHOLE):
        self.model = model
        self.kv = KVCache.allocate(model.config, NUM_SLOTS, "cpu", model.dtype, attention_shard)
        self.free = torch.randperm(NUM_SLOTS, generator=torch.Generator().manual_seed(seed))
        self.slots = {}

    def step(self, chunks, output_rows=None, exchange=ALONE):
        """Run chunks, (name, new tokens) each, and return all rows' logits, or output_rows'."""
        tokens, positions, slots, spans = [], [], [], []
        for name, new in chunks:
            held = self.slots.get(name, self.free[:0])
            given, self.free = self.free[: len(new)], self.free[len(new) :]
            self.slots[name] = torch.cat([held, given])
            tokens += new
            positions += range(len(held), len(held) + len(new))
            slots.append(given)
            number = list(self.slots).index(name)
            spans.append(SequenceSpan(len(new), len(held) + len(new), self.slots[name], number))
        rows = range(len(tokens)) if output_rows is None else output_rows
        batch = ForwardBatch(
            torch.tensor(tokens, dtype=torch.int64),
            torch.tensor(positions, dtype=torch.int64),
            torch.cat([self.free[:0], *slots]),
            tuple(spans),
            torch.tensor(list(rows), dtype=torch.int64),
        )
        return self.model(batch, self.kv, exchange=exchange)


def greedy(reference, prompt, num_tokens):
    tokens = list(prompt)
    for _ in range(num_tokens):
        with torch.inference_mode():
            tokens.append(int(reference(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module", name="pair")
def _pair(tiny_llama):
    return load(tiny_llama), load_reference(tiny_llama)


def reference_logits(reference, tokens):
    with torch.inference_mode():
        return reference(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_transformers(tmp_path, changes):
    """
    Whatever the variant of Llama, every position's logits agree to 1e-4.
    """
    folder = write_tiny_llama(tmp_path / "model", **changes)
    tokens = torch.randint(0, 512, (120,), generator=torch.Generator().manual_seed(1)).tolist()

    logits = Run(load(folder)).step([("a", tokens)])

    expected = reference_logits(load_reference(folder), tokens)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_schedule_changes_a_logit(pair, data):
    """
    However prompts are cut into chunks and mixed into steps, wherever their slots
    lie, each position's logits are those of its sequence run alone in one piece.
    """
    model, reference = pair
    ids = st.lists(st.integers(0, 511), min_size=1, max_size=24)
    left = dict(enumerate(data.draw(st.lists(ids, min_size=1, max_size=4))))
    expected = {name: reference_logits(reference, tokens) for name, tokens in left.items()}
    run, done = Run(model, data.draw(st.integers(0, 9))), dict.fromkeys(left, 0)

    while left:
        names = data.draw(st.permutations(sorted(left)))
        names = names[: data.draw(st.integers(1, len(names)))]
        sizes = {name: data.draw(st.integers(1, len(left[name]))) for name in names}
        logits = run.step([(name, left[name][: sizes[name]]) for name in names])

        for name, rows in zip(names, logits.split(list(sizes.values())), strict=True):
            wanted = expected[name][done[name] : done[name] + sizes[name]]
            torch.testing.assert_close(rows, wanted, atol=1e-4, rtol=1e-4)
            done[name] += sizes[name]
            left[name] = left[name][sizes[name] :]
        left = {name: tokens for name, tokens in left.items() if tokens}


def test_greedy_tokens_are_those_of_transformers_alone_and_batched(pair):
    """
    Prompts of different lengths decoded together give the tokens each gives alone.
    """
    model, reference = pair
    expected = [greedy(reference, prompt, 12) for prompt in PROMPTS]

    run, outputs = Run(model), [[] for _ in PROMPTS]
    new = dict(enumerate(PROMPTS))
    for _ in range(12):
        ends = torch.tensor([len(tokens) for tokens in new.values()]).cumsum(0) - 1
        chosen = run.step(list(new.items()), ends.tolist()).argmax(dim=-1).tolist()
        for name, token in enumerate(chosen):
            outputs[name].append(token)
            new[name] = [token]

    assert outputs == expected


def test_what_is_kept_of_decoding_sequences_changes_no_logit(pair):
    """
    Long enough for windows to be made, used and outgrown, beside a prompt and alone.
    """
    model, reference = pair
    rng = torch.Generator().manual_seed(3)
    tokens = {
        name: torch.randint(0, 512, (n + 70,), generator=rng).tolist()
        for name, n in (("a", 9), ("b", 12))
    }
    expected = {name: reference_logits(reference, ids) for name, ids in tokens.items()}
    run = Run(model)
    run.step([("a", tokens["a"][:9]), ("b", tokens["b"][:12])])

    for i in range(70):
        chunks = [("a", [tokens["a"][9 + i]]), ("b", [tokens["b"][12 + i]])]
        logits = run.step([*chunks, ("c", [1, 2, 3])] if i in (7, 20) else chunks)

        wanted = torch.stack([expected["a"][9 + i], expected["b"][12 + i]])
        torch.testing.assert_close(logits[:2], wanted, atol=1e-4, rtol=1e-4)
    assert run.kv.windows.num_read > 50


def test_scores_out_of_the_range_of_half_precision_are_no_harm():
    """
    They are sums of float32, as in a prompt's attention, and the largest gets all the weight.
    """
    kv = KVCache.allocate(TINY, 2, "cpu", torch.float16)
    kv.keys[0, 0, :2] = torch.tensor([[150.0] * 8, [160.0] * 8])
    kv.values[0, 0, :2] = torch.tensor([[1.0] * 8, [2.0] * 8])
    row, span = torch.tensor([1]), SequenceSpan(1, 2, torch.arange(2))
    plan = AttentionPlan.of(ForwardBatch(row, row, row, (span,), row), kv)
    query = torch.full((1, 1, 8), 160.0, dtype=torch.float16)

    output = Attention.begin(plan, kv).attend(query, kv.layer(0))

    assert output.flatten().tolist() == [2.0] * 8


def test_a_joining_prompt_does_not_disturb_those_that_decode(pair):
    """
    A step of decodes and a prefill chunk, in any order, gives each its own logits.
    """
    model, reference = pair
    run = Run(model)
    run.step([("a", [7, 8, 9]), ("b", [10, 11])])

    logits = run.step([("a", [12]), ("c", [13, 14, 15, 16]), ("b", [17])])

    expected = [
        reference_logits(reference, [7, 8, 9, 12])[-1:],
        reference_logits(reference, [13, 14, 15, 16]),
        reference_logits(reference, [10, 11, 17])[-1:],
    ]
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-4, rtol=1e-4)


def rows_of(group, num_rows):
    return range(num_rows) if group.rows is None else group.rows.tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_one_long_context_does_not_pad_the_short_ones(lengths):
    """
    Decodes are gathered in less than twice the slots that they hold, each exactly once.
    """
    spans = tuple(SequenceSpan(1, n, torch.full((n,), i)) for i, n in enumerate(lengths))
    rows = torch.arange(len(lengths))

    kv = KVCache.allocate(TINY, len(lengths), "cpu", torch.float32)

    plan = AttentionPlan.of(ForwardBatch(rows, rows, rows, spans, rows), kv)

    gathered = [i for group in plan.decodes for i in rows_of(group, len(lengths))]
    assert sorted(gathered) == list(range(len(lengths)))
    assert sum(len(group.padded.gathered) for group in plan.decodes) < 2 * sum(lengths)
    assert sum(int((group.padded.mask == 0).sum()) for group in plan.decodes) == sum(lengths)


def test_slots_of_nobody_are_never_read(pair):
    """
    Garbage in free slots, even NaN, reaches no logit: padding stays within a sequence.
    """
    run = Run(pair[0])
    run.kv.keys.fill_(torch.nan)
    run.kv.values.fill_(torch.nan)
    run.step([("long", list(range(20))), ("short", [3])])

    assert run.step([("long", [4]), ("short", [5])]).isfinite().all()


def test_only_wanted_rows_are_answered(pair):
    """
    Logits come for the rows of output_index in its order; a middle chunk wants none.
    """
    model, _ = pair
    every = Run(model).step([("a", [1, 2, 3, 4])])

    some = Run(model).step([("a", [1, 2, 3, 4])], output_rows=[3, 1])
    none = Run(model).step([("a", [1, 2, 3, 4])], output_rows=[])

    torch.testing.assert_close(some, every[[3, 1]], atol=1e-5, rtol=1e-5)
    assert none.shape == (0, 512)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_full(tiny_llama, pair, dtype):
    """
    Weights and cache are kept in half precision, logits come in float32, and are near.
    """
    half = load(tiny_llama, dtype)
    run = Run(half)
    run.step([("a", PROMPTS[3])])
    logits = run.step([("a", [9, 10, 11]), ("b", [12])])

    full = Run(pair[0])
    full.step([("a", PROMPTS[3])])
    expected = full.step([("a", [9, 10, 11]), ("b", [12])])
    assert {weight.dtype for weight in half.parameters()} == {dtype} == {run.kv.keys.dtype}
    assert logits.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(logits, expected).min() > 0.99


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_missing_weights_are_counted_and_named(tmp_path):
    """
    Weights that the configuration calls for must all be there.
    """
    folder = write_tiny_llama(tmp_path)
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))

    with pytest.raises(MissingTensors, match=r"1 weights are missing: model\.layers\.1\.mlp\.up"):
        load(folder)


def test_a_weight_of_another_shape_is_refused(tmp_path):
    """
    The name and both shapes are in the message.
    """
    folder = write_tiny_llama(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 100}))

    with pytest.raises(ShapeMismatch, match=r"mlp\.\w+_proj\.weight .*96.*100"):
        load(folder)


def test_a_weight_without_a_place_is_refused(tmp_path):
    """
    A weight that would be silently ignored means another architecture.
    """
    folder = write_tiny_llama(tmp_path)
    extra = {"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}
    change_weights(folder, lambda weights: weights.update(extra))

    with pytest.raises(UnsupportedModel, match="q_norm"):
        load(folder)
