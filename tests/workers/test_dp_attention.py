"""DP attention at the model's level: ranks with a shard each compute what one rank alone does."""

import random
import socket
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore
from torch.distributed.distributed_c10d import ProcessGroupGloo

from tests.workers.test_families import FAMILIES, reference
from tests.workers.test_llama import Run, load
from tests.workers.tiny import write_tiny_llama
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import LlamaModel
from workers.model.row_exchange import Shared, StepExchange
from workers.model.shard import Shard
from workers.ranks.links import choose_interface
from workers.ranks.rank_group import RankGroup

NUM_STEPS = 12
MODELS = ("llama", "untied", "mixtral", "qwen2_moe")


def written(name, folder):
    if name in FAMILIES:
        reference(name, FAMILIES[name]).save_pretrained(folder)
        return folder
    return write_tiny_llama(folder, tie_word_embeddings=name == "llama", vocab_size=512)


def steps_of(rank):
    """A group's steps: idle ones, prefills, decodes, both, and one that begins over again."""
    draw = random.Random(100 + rank)
    steps, names = [], []
    for number in range(NUM_STEPS):
        kind = draw.choice(("idle", "prefill", "decode", "both"))
        chunks = []
        if kind in ("decode", "both"):
            chunks += [(name, [draw.randrange(3, 120)]) for name in names]
        if kind in ("prefill", "both"):
            names.append(f"{rank}-{number}")
            chunks.append(
                (names[-1], [draw.randrange(3, 120) for _ in range(draw.choice((2, 30)))])
            )
        steps.append(chunks)
    return steps


def rank_main(rank, size, port, folder, is_expert_parallel, results):
    torch.set_num_threads(1)
    choose_interface("127.0.0.1")
    store = TCPStore("127.0.0.1", port, size, is_master=rank == 0)
    group = RankGroup(ProcessGroupGloo(store, rank, size, timedelta(seconds=60)))
    checkpoint = open_checkpoint(folder)
    model = LlamaModel(checkpoint.config, "cpu", torch.float32, Shard(rank, size))
    model.load(checkpoint)
    everybody = [steps_of(each) for each in range(size)]
    run, outputs = Run(model), []
    for number in range(NUM_STEPS):
        counts = [sum(len(new) for _, new in steps[number]) for steps in everybody]
        if not any(counts):
            outputs.append(None)
            continue
        shared = Shared(group, counts)
        outputs.append(run.step(everybody[rank][number], exchange=StepExchange(shared, shared)))
    torch.save(outputs, results / str(rank))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_one_process(name, size, tmp_path):
    """
    With idle groups, uneven batches, prefill beside decode; every row within 1e-3.
    """
    folder = written(name, tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    torch.multiprocessing.spawn(rank_main, (size, port, folder, False, tmp_path), size)

    whole = load(folder)
    for rank in range(size):
        run, outputs = Run(whole), torch.load(tmp_path / str(rank))
        for chunks, logits in zip(steps_of(rank), outputs, strict=True):
            if chunks:
                assert torch.allclose(logits, run.step(chunks), atol=1e-3)
