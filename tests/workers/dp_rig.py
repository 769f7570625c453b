"""
Ranks that compute together: a thread each, with collectives between them, and what they compute.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, pairwise

import torch

from tests.workers.test_families import FAMILIES, reference
from tests.workers.test_llama import Run
from tests.workers.tiny import write_tiny_llama
from workers.lockstep.pass_exchange import ComputingRanks
from workers.lockstep.row import NOTHING, Work
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import LlamaModel
from workers.model.shard import Shard

LIMIT_S = 60.0
NUM_STEPS = 12
UNEVEN = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}
LLAMAS = {
    "llama": {},
    "untied": {"tie_word_embeddings": False},
    "uneven, biased": UNEVEN | {"attention_bias": True, "tie_word_embeddings": False},
}


class Threads:
    """What ranks in threads of one process share; one for each group of them."""

    def __init__(self, size):
        self.size = size
        self._barrier = threading.Barrier(size)
        self._parts = [None] * size

    def rank(self, rank):
        """Its collectives."""
        return ThreadRank(self, rank)

    def meet(self, rank, part, use):
        """What use makes of everybody's parts, before any of them may change."""
        self._parts[rank] = part
        self._barrier.wait(LIMIT_S)
        used = use(self._parts)
        self._barrier.wait(LIMIT_S)
        return used

    def abort(self):
        """Nobody waits any more."""
        self._barrier.abort()


class ThreadRank:
    """See workers.model.row_exchange.Collectives."""

    def __init__(self, group, rank):
        self._group, self.rank, self.size = group, rank, group.size

    def all_gather(self, gathered, own):
        gathered.copy_(self._group.meet(self.rank, own, torch.cat))

    def all_reduce(self, summand):
        summand.copy_(self._group.meet(self.rank, summand, _sum))

    def reduce_scatter(self, own, summands):
        mine = slice(self.rank * len(own), (self.rank + 1) * len(own))
        own.copy_(self._group.meet(self.rank, summands, _sum)[mine])

    def all_to_all(self, received, sent, num_received, num_sent):
        starts = [0, *accumulate(num_sent)]
        parts = [sent[start:end] for start, end in pairwise(starts)]
        mine = self._group.meet(
            self.rank, parts, lambda all_: torch.cat([each[self.rank] for each in all_])
        )
        assert len(mine) == sum(num_received)
        received.copy_(mine)

    def broadcast(self, values):
        values.copy_(self._group.meet(self.rank, values, lambda parts: parts[0].clone()))


def _sum(parts):
    return torch.stack(list(parts)).sum(0)


def in_threads(size, num_groups, main):
    """main(world, attention group) of each rank; what each returned, by rank."""
    each = size // num_groups
    world, groups = Threads(size), [Threads(each) for _ in range(num_groups)]

    def run(rank):
        torch.set_num_threads(1)
        try:
            return main(world.rank(rank), groups[rank // each].rank(rank % each))
        except BaseException:
            for threads in (world, *groups):
                threads.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        done = [pool.submit(run, rank) for rank in range(size)]
    errors = [future.exception() for future in done]
    for error in sorted(filter(None, errors), key=lambda e: "Broken" in type(e).__name__):
        raise error
    return [future.result() for future in done]


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
