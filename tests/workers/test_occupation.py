"""When memory may be given back, asked in the step loop's place."""

import pytest

from tests.workers.fakes import SlotRunner, make_request
from workers.engine.cache_journal import Change as Fate
from workers.engine.occupation import Change, Occupation
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.scheduler import Limits, Scheduler
from workers.errors import GroupBusy, MemoryReleased, NotReleasable
from workers.model.resident import Part

KV, WEIGHTS = Part.KV_CACHE, Part.WEIGHTS
BOTH = frozenset(Part)
SIZES = {KV: 300, WEIGHTS: 5000}


class CountedMemory:
    """Notes what is asked of it; error: what taking weights back raises."""

    def __init__(self):
        self.calls = []
        self.error = None

    def give_back(self, part):
        self.calls.append(f"give {part}")
        return SIZES[part]

    def take_back(self, part):
        if part is WEIGHTS and self.error is not None:
            raise self.error
        self.calls.append(f"take {part}")
        return SIZES[part]

    def warm_up(self):
        self.calls.append("warm up")


class Group:
    def __init__(self):
        self.cache, self.runner = RadixCache(4), SlotRunner(4)
        self.scheduler = Scheduler(Limits(4, 4, 64), PagePool(16, 4), self.cache)
        self.memory = CountedMemory()
        self.occupation = Occupation(self.scheduler, self.memory)

    def serve(self, request_id, prompt):
        self.scheduler.add(make_request(request_id, prompt, 2))
        while not self.scheduler.is_idle:
            plan = self.scheduler.plan()
            self.scheduler.commit(plan, self.runner.run(plan))


@pytest.fixture(name="group")
def _group():
    return Group()


def test_an_idle_group_gives_both_back(group):
    """
    Together they are all its memory.
    """
    change = group.occupation.release(BOTH)

    assert change == Change(BOTH, BOTH, 5300)
    assert sorted(group.memory.calls) == ["give kv_cache", "give weights"]
    assert group.occupation.look() == BOTH


def test_memory_in_use_stays(group):
    """
    Whether a request runs or waits; the next one is let in as before.
    """
    group.scheduler.add(make_request(1, range(3, 9), 2))

    with pytest.raises(GroupBusy, match="holds 1 requests"):
        group.occupation.release(BOTH)

    assert group.memory.calls == []
    assert group.occupation.look() == frozenset()
    group.serve(2, range(3, 9))


def test_a_group_without_memory_refuses(group):
    """
    It says why, and what to do; a part that is missing is enough.
    """
    group.occupation.release({WEIGHTS})

    with pytest.raises(MemoryReleased, match=r"\(weights\); POST /resume_memory_occupation"):
        group.scheduler.add(make_request(1, [3, 4], 2))
    assert group.scheduler.is_idle


def test_each_refusal_is_an_error_of_its_own(group):
    """
    One that is raised again keeps what it was raised for before: requests, for good.
    """
    group.occupation.release(BOTH)

    refused = []
    for number in range(2):
        with pytest.raises(MemoryReleased) as told:
            group.scheduler.add(make_request(number, [3, 4], 2))
        refused.append(told.value)

    assert refused[0] is not refused[1]


def test_prefixes_go_with_the_cache_and_the_journal_says_so(group):
    """
    Their pages are free, and no request finds them when the group serves again.
    """
    group.serve(1, list(range(3, 20)))
    stored = group.cache.journal.read().events
    assert [event.change for event in stored] == [Fate.STORED]
    assert group.cache.num_pages == 4

    group.occupation.release({KV})

    gone = [d for event in group.cache.journal.read().events for d in event.digests]
    assert sorted(gone) == sorted(stored[0].digests)
    assert group.cache.num_pages == 0
    group.scheduler.check_integrity()
    group.runner.slots.clear()
    group.occupation.resume(BOTH)
    group.serve(2, list(range(3, 20)))
    assert group.scheduler.totals.cached_tokens == 0


def test_prefixes_go_with_the_weights_that_made_them(group):
    """
    What is read again may be others, under the same name.
    """
    group.serve(1, list(range(3, 20)))

    group.occupation.release({WEIGHTS})
    group.occupation.resume({WEIGHTS})

    assert group.cache.num_pages == 0


def test_twice_released_is_released(group):
    """
    Only what was there is given back.
    """
    assert group.occupation.release({KV}) == Change(frozenset({KV}), frozenset({KV}), 300)
    assert group.occupation.release(BOTH) == Change(BOTH, frozenset({WEIGHTS}), 5000)
    assert group.occupation.release(BOTH) == Change(BOTH, frozenset(), 0)


def test_resuming_what_is_there_does_nothing(group):
    """
    Neither at first nor again.
    """
    assert group.occupation.resume(BOTH) == Change(frozenset(), frozenset(), 0)
    group.occupation.release(BOTH)
    group.occupation.resume(BOTH)
    num_calls = len(group.memory.calls)

    assert group.occupation.resume(BOTH) == Change(frozenset(), frozenset(), 0)
    assert len(group.memory.calls) == num_calls


def test_it_warms_up_once_all_is_there(group):
    """
    The weights first, which may not be had; nobody is let in before the last part.
    """
    group.occupation.release(BOTH)
    group.memory.calls.clear()

    group.occupation.resume({WEIGHTS})
    assert group.memory.calls == ["take weights"]
    with pytest.raises(MemoryReleased, match=r"\(kv_cache\)"):
        group.scheduler.add(make_request(1, [3, 4], 2))
    group.occupation.resume({KV})
    assert group.memory.calls == ["take weights", "take kv_cache", "warm up"]
    group.serve(2, [3, 4])


def test_what_cannot_be_had_stays_released(group):
    """
    Until it can be.
    """
    group.occupation.release(BOTH)
    group.memory.error = RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        group.occupation.resume(BOTH)

    assert group.occupation.look() == BOTH
    group.memory.error = None
    assert group.occupation.resume(BOTH).changed == BOTH


def test_memory_that_cannot_be_released_says_why(group):
    """
    Whatever is asked.
    """
    fixed = Occupation(group.scheduler, "ranks share their weights")

    for act in (fixed.look, lambda: fixed.release(BOTH), lambda: fixed.resume(BOTH)):
        with pytest.raises(NotReleasable, match="share their weights"):
            act()
