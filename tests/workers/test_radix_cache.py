from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from shm.page_digest import page_digest
from tests.workers.naive_cache import NaiveCache
from workers.engine.cache_journal import CacheJournal, Change
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache


def test_a_match_has_whole_pages_only():
    """
    Tokens after the last full page, or after the first that differs, do not count.
    """
    cache = RadixCache(page_size=2)
    cache.insert([1, 2, 3, 4, 5], [10, 11])

    assert cache.match([1, 2, 3, 4, 5, 6]) == [10, 11]
    assert cache.match([1, 2, 3, 9]) == [10]
    assert cache.match([1]) == cache.match([2, 2]) == []


def test_what_is_known_already_stays_with_the_caller():
    """
    The cache returns its own pages, and takes over only the new ones.
    """
    cache = RadixCache(page_size=1)
    cache.insert([1, 2], [10, 11])

    assert cache.insert([1, 2, 3], [20, 21, 22]) == [10, 11, 22]
    assert sorted(cache.pages()) == [10, 11, 22]


def test_the_longest_unused_goes_first_and_from_its_end():
    """
    A prefix outlives what follows it, and its use counts as use of all before it.
    """
    cache = RadixCache(page_size=1)
    cache.insert([1, 2, 3], [10, 11, 12])
    cache.insert([1, 5], [20, 21])
    cache.insert([7], [30])
    cache.unlock(cache.lock([1, 2]))

    assert cache.evict(1) == [12]
    assert cache.evict(9) == [21, 30, 11, 10]


def test_a_leaf_that_is_used_again_gets_a_later_place():
    """
    Although it waits for its eviction already.
    """
    cache = RadixCache(page_size=1)
    cache.insert([1], [10])
    cache.insert([2], [20])
    cache.unlock(cache.lock([1]))

    assert cache.evict(1) == [20]


def test_a_query_is_not_a_use():
    """
    However often it is asked, a match changes nothing.
    """
    cache = RadixCache(page_size=1)
    cache.insert([1], [10])
    cache.insert([2], [20])
    for _ in range(5):
        cache.match([1])

    assert cache.evict(1) == [10]


def test_a_lock_holds_everything_up_to_the_root():
    """
    What follows the locked prefix can go, the prefix cannot.
    """
    cache = RadixCache(page_size=1)
    cache.insert([1, 2, 3, 4], [10, 11, 12, 13])
    lock = cache.lock([1, 2])

    assert cache.num_evictable == 2
    assert cache.evict(9) == [13, 12]
    cache.unlock(lock)
    assert cache.evict(9) == [11, 10]


def test_a_lock_survives_a_split_of_its_run():
    """
    Two requests part ways in the middle of what a third has locked.
    """
    cache = RadixCache(page_size=1)
    cache.insert([1, 2, 3, 4], [10, 11, 12, 13])
    lock = cache.lock([1, 2, 3, 4])
    cache.insert([1, 2, 8], [0, 0, 20])

    assert cache.evict(9) == [20]
    cache.unlock(lock)
    cache.check_integrity()
    assert cache.num_evictable == 4


def test_a_journal_that_nobody_reads_forgets_and_says_so_once():
    """
    After that it is complete again.
    """
    journal = CacheJournal(max_unread_digests=3)
    cache = RadixCache(1, journal)
    cache.insert([1, 2], [10, 11])
    cache.insert([3, 4], [12, 13])
    cache.insert([5], [14])

    assert journal.read() == ((), False)
    cache.insert([6], [15])
    assert journal.read() == (((Change.STORED, (page_digest(0, [6]),)),), True)
    assert page_digest(0, [6]) in cache.digests()


def test_no_cache_keeps_nothing():
    """
    All that is offered stays with the caller.
    """
    cache = NoCache()

    assert cache.insert([1, 2], [10, 11]) == []
    assert cache.match([1, 2]) == [] == cache.evict(5)
    cache.unlock(cache.lock([1, 2]))
    cache.check_integrity()


TOKENS = st.lists(st.integers(0, 2), max_size=9)


class AnyUse(RuleBasedStateMachine):
    """The same calls to the tree and to its oracle give the same answers."""

    @initialize(page_size=st.integers(1, 3), max_unread=st.sampled_from([2, 1000]))
    def start(self, page_size, max_unread):
        self.page_size = page_size
        self.cache = RadixCache(page_size, CacheJournal(max_unread))
        self.naive = NaiveCache(page_size)
        self.locks = []
        self.next_page = 0
        self.index = set()

    @rule(tokens=TOKENS)
    def insert(self, tokens):
        count = len(tokens) // self.page_size + 1  # one page more than there are full ones
        pages = list(range(self.next_page, self.next_page + count))
        self.next_page += count
        before = self.cache.version, self.cache.num_pages
        assert self.cache.insert(tokens, pages) == self.naive.insert(tokens, pages[:-1])
        after = self.cache.version, self.cache.num_pages
        assert (before[0] == after[0]) == (before[1] == after[1])

    @rule(tokens=TOKENS)
    def match(self, tokens):
        assert self.cache.match(tokens) == self.naive.match(tokens)

    @rule(tokens=TOKENS)
    def lock(self, tokens):
        lock, expected = self.cache.lock(tokens), self.naive.lock(tokens)
        assert lock.pages == expected.pages
        self.locks.append((lock, expected))

    @precondition(lambda self: self.locks)
    @rule(data=st.data())
    def unlock(self, data):
        lock, expected = self.locks.pop(data.draw(st.integers(0, len(self.locks) - 1)))
        self.cache.unlock(lock)
        self.naive.unlock(expected)

    @rule(num_pages=st.integers(0, 6))
    def evict(self, num_pages):
        before = self.cache.version
        evicted = self.cache.evict(num_pages)
        assert evicted == self.naive.evict(num_pages)
        assert (before == self.cache.version) == (not evicted)

    @rule()
    def read_journal(self):
        """Who follows the journal knows what is cached."""
        events, is_complete = self.cache.journal.read()
        if not is_complete:
            self.index = set(self.cache.digests())
        for event in events:
            if event.change is Change.STORED:
                self.index.update(event.digests)
            else:
                self.index.difference_update(event.digests)
        assert self.index == set(self.naive.digests())

    @invariant()
    def books_agree(self):
        self.cache.check_integrity()
        assert self.cache.num_pages == self.naive.num_pages
        assert self.cache.num_evictable == self.naive.num_evictable
        assert self.cache.num_locks == self.naive.num_locks == len(self.locks)
        assert sorted(self.cache.pages()) == sorted(self.naive.pages())

    def teardown(self):
        if hasattr(self, "cache"):
            while self.locks:
                lock, _ = self.locks.pop()
                self.cache.unlock(lock)
            assert len(self.cache.evict(10**6)) == self.naive.num_pages
            assert self.cache.num_pages == 0


AnyUse.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestAnyUse = AnyUse.TestCase
