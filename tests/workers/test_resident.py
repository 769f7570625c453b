"""Memory that is given back is really free, and what is taken back is what was there."""

import gc
import resource
import weakref
from pathlib import Path

import pytest
import torch

from tests.workers.tiny import write_tiny_llama
from workers.engine.batch import BatchBuilder
from workers.engine.runner import ModelRunner
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.checkpoint import open_checkpoint
from workers.model.errors import ModelMissing
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel
from workers.model.resident import Part, Resident
from workers.model.sampling import Sampler

CPU = torch.device("cpu")
NUM_SLOTS = 64
TOKENS = [5, 9, 200, 31, 77]

pytestmark = pytest.mark.usefixtures("one_thread")


def loaded(folder):
    checkpoint = open_checkpoint(folder)
    try:
        model = LlamaModel(checkpoint.config, CPU, torch.float32)
        model.load(checkpoint)
        return model
    finally:
        checkpoint.close()


def resident(folder, num_slots=NUM_SLOTS):
    model = loaded(folder)
    kv = KVCache.allocate(model.config, num_slots, CPU, torch.float32)
    return Resident(model, kv, lambda: loaded(folder))


def logits(held):
    positions = torch.arange(len(TOKENS))
    span = SequenceSpan(len(TOKENS), len(TOKENS), positions)
    return held.model(
        ForwardBatch(torch.tensor(TOKENS), positions, positions, (span,), positions), held.kv
    )


def storage_bytes(kv):
    return [part.untyped_storage().nbytes() for part in (kv.keys, kv.values)]


def test_a_pool_that_is_given_back_has_no_storage(tiny_llama):
    """
    Views of its layers neither; taken back, it is as large as before, and zero.
    """
    held = resident(tiny_llama)
    before = storage_bytes(held.kv)
    held.kv.keys.fill_(7.0)
    layer = held.kv.layer(1)

    assert held.give_back(Part.KV_CACHE) == sum(before) > 0
    assert storage_bytes(held.kv) == [0, 0]
    assert layer.keys.untyped_storage().nbytes() == 0

    assert held.take_back(Part.KV_CACHE) == sum(before)
    assert storage_bytes(held.kv) == before
    assert not held.kv.keys.any()
    assert not layer.values.any()


def test_windows_are_given_up_with_the_pool(tiny_llama):
    """
    They are copies of it.
    """
    held = resident(tiny_llama)
    for length in (4, 5):  # kept when it is seen a second time
        held.kv.windows.begin([((1,), (length,))])
    assert "1x" in repr(held.kv.windows)

    held.give_back(Part.KV_CACHE)

    assert "1x" not in repr(held.kv.windows)
    assert held.kv.windows.begin([((1,), (6,))]) == [(None, True)]


def test_nobody_holds_on_to_weights_that_are_given_back(tiny_llama):
    """
    Each is freed at once, without the garbage collector.
    """
    held = resident(tiny_llama)
    weights = [weakref.ref(weight) for weight in held.model.parameters()]
    num_bytes = sum(weight().numel() * weight().element_size() for weight in weights)
    gc.disable()
    try:
        freed = held.give_back(Part.WEIGHTS)
        assert [weight() for weight in weights] == [None] * len(weights)
    finally:
        gc.enable()
    assert freed == num_bytes


def test_what_is_taken_back_computes_as_before(tiny_llama):
    """
    To the bit: it is the same file.
    """
    held = resident(tiny_llama)
    before = logits(held)

    for part in Part:
        held.give_back(part)
    for part in Part:
        held.take_back(part)

    assert torch.equal(logits(held), before)


def test_packed_weights_count(tmp_path):
    """
    They are in no parameter any more where they are packed, and weigh the same.
    """
    folder = write_tiny_llama(tmp_path / "untied", tie_word_embeddings=False)
    checkpoint = open_checkpoint(folder)
    model = LlamaModel(checkpoint.config, CPU, torch.bfloat16)
    plain = model.num_bytes
    model.load(checkpoint)
    checkpoint.close()

    assert model.num_bytes == plain


def test_the_system_gets_it(tiny_llama):
    """
    What the process has in memory shrinks by about as much, and grows again.
    """
    held = resident(tiny_llama, num_slots=1 << 17)
    before = resident_bytes()

    freed = held.give_back(Part.KV_CACHE)
    assert freed > 60e6
    assert before - resident_bytes() > 0.9 * freed

    held.take_back(Part.KV_CACHE)
    assert abs(before - resident_bytes()) < 0.1 * freed


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_model_that_is_gone_is_an_error_and_changes_nothing(tiny_llama, tmp_path):
    """
    The pool can be had, the weights cannot, and may be asked for again.
    """
    kept = loaded(tiny_llama)
    files = [tmp_path / "gone", tiny_llama]
    kv = KVCache.allocate(kept.config, NUM_SLOTS, CPU, torch.float32)
    held = Resident(kept, kv, lambda: loaded(files.pop(0)))
    held.give_back(Part.WEIGHTS)

    with pytest.raises(ModelMissing, match="gone"):
        held.take_back(Part.WEIGHTS)

    assert held.take_back(Part.WEIGHTS) == kept.num_bytes


def test_a_runner_drops_what_it_had_laid_out(tiny_llama):
    """
    A layout refers to the pool, and a pass of before must not be computed over a new one.
    """
    model = loaded(tiny_llama)
    kv = KVCache.allocate(model.config, NUM_SLOTS, CPU, torch.float32)
    runner = ModelRunner(model, kv, BatchBuilder(32, 4, CPU), Sampler(0), 1, None, lambda: model)
    runner.warm_up()

    assert runner.give_back(Part.KV_CACHE) == runner.take_back(Part.KV_CACHE)
    assert runner.give_back(Part.WEIGHTS) == runner.take_back(Part.WEIGHTS)
    runner.warm_up()


def test_warming_up_touches_no_slot_of_a_page(tiny_llama):
    """
    Weights that come back alone find the prefixes that the pool has kept.
    """
    model = loaded(tiny_llama)
    kv = KVCache.allocate(model.config, NUM_SLOTS, CPU, torch.float32)
    runner = ModelRunner(model, kv, BatchBuilder(32, 4, CPU), Sampler(0), 1, None, lambda: model)
    for part in (kv.keys, kv.values):
        part.fill_(7.0)

    runner.give_back(Part.WEIGHTS)
    runner.take_back(Part.WEIGHTS)
    runner.warm_up()

    for part in (kv.keys, kv.values):
        assert (part[:, :, : kv.spare_slot] == 7.0).all()
