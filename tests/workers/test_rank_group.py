"""Collectives of ranks over gloo do what those between threads do, with which passes are tested."""

from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo

from tests.workers.dp_rig import compute, written
from tests.workers.thread_ranks import ThreadRanks
from workers.errors import RankLost
from workers.ranks.links import choose_interface
from workers.ranks.rank_group import RankGroup

SIZE = 3


@pytest.fixture(autouse=True)
def _loopback(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    choose_interface("127.0.0.1")


def over_gloo(store, rank, size, timeout_s=60):
    return RankGroup(ProcessGroupGloo(store, rank, size, timedelta(seconds=timeout_s)))


def use_all(ranks):
    """One call of each; what came of it."""
    rank, size = ranks.rank, ranks.size
    own = torch.arange(4.0).view(2, 2) + 10 * rank
    gathered = torch.empty(2 * size, 2)
    ranks.all_gather(gathered, own)
    summand = own.clone()
    ranks.all_reduce(summand)
    scattered = torch.empty(2, 2)
    ranks.reduce_scatter(scattered, torch.arange(4.0 * size).view(2 * size, 2) * (rank + 1))
    num_sent, num_received = [rank + 1] * size, [other + 1 for other in range(size)]
    received = torch.empty(sum(num_received))
    ranks.all_to_all(
        received, torch.arange(float(sum(num_sent))) + 100 * rank, num_received, num_sent
    )
    words = torch.tensor([5, 2**40]) if rank == 0 else torch.zeros(2, dtype=torch.int64)
    ranks.broadcast(words)
    return [gathered, summand, scattered, received, words]


@pytest.mark.parametrize("is_staged", [False, True])
def test_gloo_and_threads_agree(is_staged):
    """
    Of each collective, on every rank; also where tensors go through host memory.
    """
    store = HashStore()

    def main(world):
        group = over_gloo(store, world.rank, world.size)
        return use_all(RankGroup(group._group, is_staged=is_staged)), use_all(world)

    for ours, expected in ThreadRanks(SIZE).run(main):
        for one, other in zip(ours, expected, strict=True):
            assert torch.equal(one, other)


def test_a_rank_that_does_not_come_is_lost_within_the_limit():
    """
    And what torch says of it becomes one line.
    """
    store = HashStore()

    def main(world):
        group = over_gloo(store, world.rank, world.size, timeout_s=1)
        if world.rank == 0:
            return None
        with pytest.raises(RankLost) as lost:
            group.broadcast(torch.zeros(1))
        return str(lost.value)

    assert all(told and "\n" not in told for told in ThreadRanks(2).run(main)[1:])


class BrokenGroup:
    """A process group whose connections are known to be closed."""

    def _allgather_base(self, into, values):
        raise RuntimeError("[/gloo/pair.cc:534] Connection closed by peer. This may be due to ...")


def test_a_collective_that_cannot_even_begin_is_a_rank_that_is_lost():
    """
    As one that fails later is.
    """
    with pytest.raises(RankLost, match=r"^Connection closed by peer$"):
        RankGroup(BrokenGroup()).all_gather(torch.zeros(2), torch.zeros(1))


def test_a_model_computes_the_same_over_gloo(tmp_path):
    """
    Four ranks, two of each group.
    """
    folder, store = written("uneven, biased", tmp_path / "model"), HashStore()

    def main(world, attention):
        each = over_gloo(store, world.rank, world.size)
        inner = PrefixStore(f"group {world.rank // attention.size}", store)
        return compute(folder, each, over_gloo(inner, attention.rank, attention.size))

    over_threads = ThreadRanks(4).run_in_groups(2, lambda *ranks: compute(folder, *ranks))
    for ours, expected in zip(ThreadRanks(4).run_in_groups(2, main), over_threads, strict=True):
        for one, other in zip(ours, expected, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, atol=1e-4)
