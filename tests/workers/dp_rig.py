"""Models, and what groups compute of them in some steps, whoever carries their collectives."""

import random
from dataclasses import replace

import torch

from tests.workers.test_families import FAMILIES, reference
from tests.workers.test_llama import Run
from tests.workers.tiny import write_tiny_llama
from workers.lockstep.pass_exchange import ComputingRanks
from workers.lockstep.row import NOTHING, Work
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import LlamaModel
from workers.model.shard import Shard

NUM_STEPS = 12
UNEVEN = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}
LLAMAS = {
    "llama": {},
    "untied": {"tie_word_embeddings": False},
    "uneven, biased": UNEVEN | {"attention_bias": True, "tie_word_embeddings": False},
}


def written(name, folder):
    """That model's folder, written if it is not there."""
    if folder.exists():
        return folder
    if name in FAMILIES:
        reference(name, FAMILIES[name]).save_pretrained(folder)
        return folder
    return write_tiny_llama(folder, vocab_size=512, **LLAMAS[name])


def steps_of(group):
    """A group's steps: idle ones, prefills, decodes, both, and one that begins over again."""
    draw = random.Random(100 + group)
    steps, names = [], []
    for number in range(NUM_STEPS):
        kind = draw.choice(("idle", "prefill", "decode", "both"))
        chunks = []
        if kind in ("decode", "both"):
            chunks += [(name, [draw.randrange(3, 120)]) for name in names]
        if kind in ("prefill", "both"):
            names.append(f"{group}-{number}")
            chunks.append(
                (names[-1], [draw.randrange(3, 120) for _ in range(draw.choice((2, 30)))])
            )
        steps.append(chunks)
    return steps


def compute(folder, world, attention, is_expert_parallel=False):
    """The logits of each of a rank's steps; None for one in which nobody has anything."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if is_expert_parallel:
        config = replace(config, experts=replace(config.experts, is_expert_parallel=True))
    heads = Shard(attention.rank, attention.size)
    model = LlamaModel(config, "cpu", torch.float32, Shard(world.rank, world.size), heads)
    model.load(checkpoint)
    num_groups = world.size // attention.size
    everybody = [steps_of(group) for group in range(num_groups)]
    ranks = ComputingRanks(world, attention if attention.size > 1 else None)
    run, outputs = Run(model, attention_shard=heads), []
    for number in range(NUM_STEPS):
        nums = [sum(len(new) for _, new in steps[number]) for steps in everybody]
        if not any(nums):
            outputs.append(None)
            continue
        works = [Work(n, n) if r == 0 else NOTHING for n in nums for r in range(attention.size)]
        chunks = everybody[world.rank // attention.size][number]
        wanted = None if attention.rank == 0 else []
        outputs.append(run.step(chunks, wanted, ranks.exchange(works)))
    return outputs
