"""DP attention at the model's level: ranks with a shard each compute what one rank alone does."""

import pytest
import torch

from tests.workers.dp_rig import LLAMAS, NUM_STEPS, compute, steps_of, written
from tests.workers.test_llama import Run, load
from tests.workers.thread_ranks import ThreadRanks

MODELS = (*LLAMAS, "qwen3", "mixtral", "qwen2_moe", "deepseek_v2", "deepseek_v3")
EXPERT_PARALLEL = ("mixtral, by experts", "qwen2_moe, by experts")
CASES = [(name, 4, 2) for name in MODELS + EXPERT_PARALLEL]
CASES += [(name, 2, 1) for name in ("uneven, biased", "mixtral, by experts")]
CASES += [(name, size, size) for name in ("llama", "qwen2_moe, by experts") for size in (2, 4)]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", name="models")
def _models(tmp_path_factory):
    """Folder of a model, and the logits of each group's steps, which are computed once."""
    root, known = tmp_path_factory.mktemp("models"), {}

    def expected(name, group):
        if (name, group) not in known:
            run = Run(load(written(name, root / name)))
            known[name, group] = [run.step(chunks) for chunks in steps_of(group)]
        return known[name, group]

    return lambda name: written(name, root / name), expected


def check(outputs, size, num_groups, expected):
    """Leaders' logits are those of one process, followers have none."""
    each = size // num_groups
    for rank in range(size):
        for number in range(NUM_STEPS):
            logits, wanted = outputs[rank][number], expected(rank // each)[number]
            if rank % each or not len(wanted):
                assert logits is None or not len(logits)
                continue
            assert torch.allclose(logits, wanted, atol=1e-3)
            assert torch.equal(logits.argmax(-1), wanted.argmax(-1))


@pytest.mark.parametrize(("name", "size", "num_groups"), CASES)
def test_logits_are_those_of_one_process(name, size, num_groups, models):
    """
    With idle groups, uneven batches, prefill beside decode; every row within 1e-3.
    """
    folder, expected = models
    name, _, by_experts = name.partition(", by")
    path = folder(name)

    outputs = ThreadRanks(size).run_in_groups(
        num_groups, lambda *ranks: compute(path, *ranks, bool(by_experts))
    )

    check(outputs, size, num_groups, lambda group: expected(name, group))
