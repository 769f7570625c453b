"""What wakes ranks that wait together, over a real store."""

import queue

import pytest
from torch.distributed import DistNetworkError, TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from workers.errors import RankLost
from workers.lockstep.bell import Bell

LIMIT_S = 30.0


class CountingStore:
    """A store that remembers what was set and what was deleted in it."""

    def __init__(self, store):
        self._store = store
        self.was_set, self.was_deleted = [], []

    def set(self, key, value):
        self.was_set.append(key)
        self._store.set(key, value)

    def wait(self, keys, timeout):
        self._store.wait(keys, timeout)

    def delete_key(self, key):
        self.was_deleted.append(key)
        return self._store.delete_key(key)


class Sleeper:
    """A rank's bell, and a queue that gets its wake-ups."""

    def __init__(self, port, sweeps):
        def client():
            return PrefixStore("here", TCPStore("127.0.0.1", port, wait_for_workers=False))

        self.store = CountingStore(client())
        self.bell = Bell(self.store, client(), sweeps=sweeps)
        self.wakes = queue.Queue()
        self.bell.start(lambda: self.wakes.put(None))


@pytest.fixture(name="ranks")
def _ranks():
    master = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield [Sleeper(master.port, sweeps=rank == 0) for rank in range(2)]
    del master


def test_who_rings_wakes_the_others_in_each_pause(ranks):
    """
    Many pauses, rung for by either: nobody misses one, and old bells are taken away.
    """
    for number in range(20):
        for rank in ranks:
            rank.bell.pause()
        first, second = ranks if number % 3 else reversed(ranks)
        first.bell.ring()
        second.wakes.get(timeout=LIMIT_S)
        second.bell.ring()

    rung = [key for rank in ranks for key in rank.store.was_set]
    assert sorted(rung) == sorted(f"bell-{number}" for number in range(20)), "once each"
    assert ranks[0].store.was_deleted == [f"bell-{number}" for number in range(19)]
    assert ranks[1].store.was_deleted == []


def test_nobody_is_woken_who_is_awake(ranks):
    """
    Whoever rings has left the pause, and a ring outside of one is none.
    """
    for rank in ranks:
        rank.bell.ring()
        rank.bell.pause()
    ranks[0].bell.ring()
    ranks[1].wakes.get(timeout=LIMIT_S)

    assert ranks[0].wakes.empty()
    assert ranks[0].store.was_set == ["bell-0"]


class GoneStore:
    """Of a rank 0 that was killed."""

    def set(self, key, value):
        raise DistNetworkError("failed to send, got error code: 32")

    def wait(self, keys, timeout):
        raise DistNetworkError("failed to recv, got 0 bytes")

    def delete_key(self, key):
        raise DistNetworkError("failed to recv, got 0 bytes")


def test_a_store_that_is_gone_is_a_rank_that_is_lost():
    """
    It is no step that failed, whose requests would be told so instead of being sent again.
    """
    bell = Bell(GoneStore(), GoneStore(), sweeps=True)
    bell.pause()
    with pytest.raises(RankLost, match="store of rank 0 is gone: failed to send"):
        bell.ring()

    woken = Bell(GoneStore(), GoneStore(), sweeps=True)
    woken.pause()
    woken._hear(0)
    woken.ring()
    with pytest.raises(RankLost, match="store of rank 0"):
        woken.pause()
