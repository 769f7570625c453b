"""Decode batches of fixed shapes, recorded by what computes anew: all but CUDA's own part."""

import random
import weakref
from dataclasses import replace

import pytest
import torch

from tests.workers.fakes import make_request
from workers.config import parse
from workers.engine.batch import BatchBuilder
from workers.engine.growth import GrowthEstimate
from workers.engine.pages import PagePool
from workers.engine.runner import ModelRunner
from workers.engine.scheduler import Limits, Scheduler
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.config import ExpertsConfig, LatentConfig
from workers.model.decode_graphs import Bounds, DecodeGraphs, Shape
from workers.model.kv_cache import KVCache
from workers.model.resident import Part
from workers.model.sampling import Sampler, SamplingParams
from workers.parts import why_no_graphs

CPU = torch.device("cpu")
LATENT = {"latent": LatentConfig(4, None, 4, 4, 4, 1.0), "num_kv_heads": 1, "head_dim": 8}
NUM_SLOTS = 3000
GREEDY = SamplingParams(temperature=0)

pytestmark = pytest.mark.usefixtures("one_thread")


class Anew:
    """
    Computes what was recorded, at every replay, into the same memory, as a graph does.

    So what is not copied into the recorded tensors is not seen.
    """

    def __init__(self):
        self.num_recorded = self.num_replayed = 0

    def record(self, compute):
        self.num_recorded += 1
        kept = compute().clone()

        def replay():
            self.num_replayed += 1
            return kept.copy_(compute())

        return replay


class Twins:
    """The same random cache twice: for passes as they come, and for recorded ones."""

    def __init__(self, model, bounds):
        draw = torch.Generator().manual_seed(3)
        self.model, self.recorder = model, Anew()
        self.plain, self.recorded = (
            KVCache.allocate(model.config, NUM_SLOTS, CPU, torch.float32) for _ in range(2)
        )
        for name in ("keys", "values"):
            noise = torch.randn(self.plain.keys.shape, generator=draw)
            getattr(self.plain, name).copy_(noise)
            getattr(self.recorded, name).copy_(noise)
        self.graphs = DecodeGraphs(model, self.recorded, bounds, self.recorder)

    def assert_alike(self, batch):
        """Logits are, and what the caches hold in slots that are somebody's."""
        assert self.graphs.takes(batch)
        with torch.inference_mode():
            wanted = self.model(batch, self.plain)
            found = self.graphs.logits(batch)
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.argmax(-1), wanted.argmax(-1))
        for name in ("keys", "values"):
            theirs, own = (getattr(kv, name)[:, :, :-1] for kv in (self.plain, self.recorded))
            torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


def decodes(draw, *lengths):
    """A batch of sequences with those lengths, in slots anywhere."""
    slots = draw.sample(range(NUM_SLOTS), sum(lengths))
    spans, last = [], []
    for length in lengths:
        own, slots = slots[:length], slots[length:]
        spans.append(SequenceSpan(1, length, torch.tensor(own)))
        last.append(own[-1])
    return ForwardBatch(
        torch.tensor([draw.randrange(3, 500) for _ in lengths]),
        torch.tensor(lengths) - 1,
        torch.tensor(last),
        tuple(spans),
        torch.arange(len(lengths)),
    )


def test_recorded_batches_compute_what_others_do(model):
    """
    Whatever came before in the same shape: fewer, more, longer and shorter sequences.
    """
    draw, twins = random.Random(5), Twins(model, Bounds(6, 700))

    for _ in range(30):
        lengths = [draw.choice((1, 2, 17, 255, 256, 257, 600)) for _ in range(draw.randint(1, 6))]
        while sum(lengths) > NUM_SLOTS:
            lengths.pop()
        twins.assert_alike(decodes(draw, *lengths))

    assert twins.recorder.num_recorded == len(twins.graphs.shapes) > 5
    assert twins.recorder.num_replayed == 30


def test_a_shape_is_recorded_once(model):
    """
    And a batch that fills it, and one that does not, are replays of the same.
    """
    draw, twins = random.Random(6), Twins(model, Bounds(8, 2048))

    for lengths in ((9, 300, 2), (40, 257, 1, 3), (512, 511, 2)):
        twins.assert_alike(decodes(draw, *lengths))

    assert twins.graphs.shapes == [Shape(4, 512)]
    assert twins.recorder.num_recorded == 1


def test_rows_that_fill_up_write_where_nobody_reads(model):
    """
    Everybody's slot is full here, and stays as it is but for the new tokens'.
    """
    draw, twins = random.Random(7), Twins(model, Bounds(8, 256))
    before = twins.recorded.keys.clone()

    twins.assert_alike(decodes(draw, 5, 6, 7, 8, 9))

    changed = (twins.recorded.keys != before).any(dim=(0, 1, 3)).nonzero().flatten().tolist()
    assert len(changed) == 5 + 1
    assert changed[-1] == twins.recorded.spare_slot == NUM_SLOTS


def test_what_an_earlier_batch_has_left_is_not_read(model):
    """
    Not even to be multiplied with 0, which would be no number if that is none.
    """
    draw, twins = random.Random(8), Twins(model, Bounds(4, 256))
    early = decodes(draw, 200, 180, 250)
    late = decodes(draw, 3, 40)
    twins.assert_alike(early)
    left = {slot for each in early.sequences for slot in each.slot_index.tolist()}
    used = {slot for each in late.sequences for slot in each.slot_index.tolist()}

    for kv in (twins.plain, twins.recorded):
        kv.keys[:, :, sorted(left - used)] = torch.inf
        kv.values[:, :, sorted(left - used)] = torch.nan

    with torch.inference_mode():
        found = twins.graphs.logits(late).clone()
        wanted = twins.model(late, twins.plain)
    assert twins.graphs.shapes == [Shape(2, 256), Shape(4, 256)]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_rows", "length", "expected"),
    [
        (1, 1, (1, 256)),
        (2, 256, (2, 256)),
        (3, 257, (4, 512)),
        (5, 512, (8, 512)),
        (9, 513, (12, 1000)),
        (12, 1000, (12, 1000)),
    ],
)
def test_shapes_are_powers_of_two_up_to_the_bounds(num_rows, length, expected):
    """
    So there are few, and less than half of one is filling, but for lengths under 256.
    """
    assert Bounds(12, 1000).shape_of(num_rows, length) == expected


def test_bounds_below_the_least_length_hold():
    """
    A short context has one width.
    """
    assert Bounds(3, 100).shape_of(3, 7) == (3, 100)


def span(num_new, num_total):
    return SequenceSpan(num_new, num_total, torch.arange(num_total))


@pytest.mark.parametrize(
    ("spans", "num_outputs", "expected"),
    [
        ([span(1, 5), span(1, 9)], 2, True),
        ([span(1, 64)] * 4, 4, True),
        ([span(1, 5), span(3, 9)], 2, False),
        ([span(1, 5), span(1, 9)], 1, False),
        ([span(1, 5), span(1, 9)], 3, False),
        ([span(1, 65)], 1, False),
        ([span(1, 5)] * 5, 5, False),
        ([], 0, False),
    ],
    ids=["decodes", "full", "prefill", "goes on", "scored", "long", "many", "empty"],
)
def test_only_batches_that_decode_are_taken(model, spans, num_outputs, expected):
    """
    One new token each, one row of logits each, and within the bounds.
    """
    graphs = Twins(model, Bounds(4, 64)).graphs
    new = torch.zeros(sum(each.num_new for each in spans), dtype=torch.int64)

    batch = ForwardBatch(new, new, new, tuple(spans), torch.arange(num_outputs))

    assert graphs.takes(batch) is expected


PROMPTS = {i: [(i * 37 + k * 11) % 500 + 3 for k in range(n)] for i, n in enumerate((3, 40, 17, 1))}


def serve(model, make_graphs, runner=None):
    """Every prompt's output, on a cache that is too small for all of them; and the runner."""
    pool = PagePool(19, 4)
    scheduler = Scheduler(Limits(4, 10, 48), pool, growth=GrowthEstimate(initial=0.0))
    if runner is None:
        kv = KVCache.allocate(model.config, pool.capacity_tokens, CPU, torch.float32)
        builder = BatchBuilder(128, 4, CPU)
        runner = ModelRunner(
            model, kv, builder, Sampler(0), 1, None, lambda: model, make_graphs
        )  # fmt: skip
        runner.warm_up()
    requests = {i: make_request(i, p, 12) for i, p in PROMPTS.items()}
    for request in requests.values():
        request.params = GREEDY
        scheduler.add(request)
    while not scheduler.is_idle:
        plan = scheduler.plan()
        scheduler.commit(plan, runner.run(plan))
        if runner.looks_ahead:
            runner.prepare(scheduler.foresee(plan))
    assert scheduler.totals.retractions > 0
    return {i: request.output_ids for i, request in requests.items()}, runner


def test_tokens_do_not_depend_on_whether_batches_are_recorded(model):
    """
    Through the runner: prompts beside, requests that end, retractions, and slots that move.
    """
    recorder = Anew()
    plain, _ = serve(model, None)

    recorded, _ = serve(model, lambda m, kv: DecodeGraphs(m, kv, Bounds(3, 128), recorder))

    assert recorded == plain
    assert recorder.num_replayed > 10


def test_graphs_go_with_the_memory_that_they_are_over(model):
    """
    Nobody keeps them then, nor through them the weights; with the memory there are new ones.
    """
    made, recorders = [], []

    def make(given, kv):
        recorders.append(Anew())
        graphs = DecodeGraphs(given, kv, Bounds(4, 128), recorders[-1])
        made.append(weakref.ref(graphs))
        return graphs

    before, runner = serve(model, make)
    runner.give_back(Part.WEIGHTS)
    assert made[0]() is None
    runner.take_back(Part.WEIGHTS)
    runner.warm_up()
    num_before = recorders[0].num_replayed

    again, _ = serve(model, make, runner)

    assert again == before
    assert recorders[0].num_replayed == num_before
    assert recorders[1].num_replayed > 10


@pytest.mark.parametrize(
    ("device", "flags", "parts", "said"),
    [
        ("cuda", [], {}, None),
        ("cuda", ["--cuda-graph-max-bs", "8"], {}, None),
        ("cuda", ["--disable-cuda-graph"], {}, "--disable-cuda-graph"),
        ("cuda", ["--enable-dp-attention"], {}, "--enable-dp-attention"),
        ("cuda", [], {"experts": ExpertsConfig(4, 2, 8)}, "expert"),
        ("cuda", [], LATENT, "latents"),
        ("cpu", [], {}, "cpu"),
    ],
)
def test_why_batches_are_not_recorded(model, tmp_path, device, flags, parts, said):
    """
    Where nothing launches, where it was switched off, and where a pass is not the same each time.
    """
    config = parse([
        "--instance", "one", "--instance-epoch", "5", "--run-dir", str(tmp_path),
        "--dp-rank", "0", "--dp-size", "1", "--num-front-doors", "1",
        "--model", "m.gguf", "--served-model-name", "m", *flags,
    ])  # fmt: skip

    why_not = why_no_graphs(config, device, replace(model.config, **parts))

    assert (why_not is None) if said is None else (said in why_not)
