"""Collectives, over a process group that takes as long as the test says."""

import pytest
import torch

from workers.errors import RankLost
from workers.ranks.rank_group import RankGroup

BEGINNING_NS, WAITING_NS = 10, 300


class Clock:
    """Stands still but for what the fake group takes."""

    def __init__(self):
        self.now_ns = 5_000

    def __call__(self):
        return self.now_ns


class SlowGroup:
    """A process group, and each of its works; or one that has lost a rank."""

    def __init__(self, clock, error=None):
        self._clock, self._error = clock, error

    def _begin(self, *_):
        self._clock.now_ns += BEGINNING_NS
        return self

    allreduce = _allgather_base = _reduce_scatter_base = alltoall_base = _begin

    def wait(self):
        self._clock.now_ns += WAITING_NS
        if self._error is not None:
            raise self._error


COLLECTIVES = {
    "all_gather": lambda group: group.all_gather(torch.zeros(4), torch.zeros(2)),
    "all_reduce": lambda group: group.all_reduce(torch.zeros(2)),
    "reduce_scatter": lambda group: group.reduce_scatter(torch.zeros(2), torch.zeros(4)),
    "all_to_all": lambda group: group.all_to_all(torch.zeros(2), torch.zeros(2), [1, 1], [1, 1]),
}


@pytest.mark.parametrize("collective", COLLECTIVES.values(), ids=list(COLLECTIVES))
def test_time_in_collectives_is_counted_and_no_other(collective):
    """
    From its beginning until it is complete; what is computed between two of them is not in it.
    """
    clock = Clock()
    group = RankGroup(SlowGroup(clock), clock_ns=clock)

    collective(group)
    clock.now_ns += 1_000_000
    collective(group)

    assert group.waited_ns == 2 * (BEGINNING_NS + WAITING_NS)


@pytest.mark.parametrize("collective", COLLECTIVES.values(), ids=list(COLLECTIVES))
def test_a_collective_that_fails_means_that_a_rank_is_lost(collective):
    """
    With the first line of what torch says.
    """
    clock = Clock()
    group = RankGroup(SlowGroup(clock, RuntimeError("closed by peer\nat ...")), clock_ns=clock)

    with pytest.raises(RankLost, match=r"closed by peer$"):
        collective(group)
