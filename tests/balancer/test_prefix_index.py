import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from balancer.prefix_index import Change, PrefixEvent, PrefixIndex
from tests.balancer.naive_index import NaiveIndex

BEGUN = PrefixEvent(Change.BEGUN)


def stored(*digests):
    return PrefixEvent(Change.STORED, digests)


def evicted(*digests):
    return PrefixEvent(Change.EVICTED, digests)


@pytest.fixture(name="index")
def _index():
    index = PrefixIndex(num_groups=3)
    yield index
    index.check_integrity()


def test_a_match_ends_at_the_first_page_that_a_group_lacks(index):
    """
    Later pages are worth nothing without those before them.
    """
    index.observe(0, stored(1, 2, 3))
    index.observe(1, stored(1, 3))

    assert index.match([1, 2, 3, 4]) == [3, 1, 0]
    assert index.match([2, 3]) == [2, 0, 0]
    assert index.match([]) == [0, 0, 0]


def test_what_a_group_evicts_is_gone_there_and_nowhere_else(index):
    """
    Each group speaks for itself.
    """
    index.observe(0, stored(1, 2))
    index.observe(2, stored(1, 2))
    index.observe(0, evicted(2))

    assert index.match([1, 2]) == [1, 0, 2]


def test_a_group_that_tells_all_anew_is_believed_alone_in_that(index):
    """
    What it told before counts no longer, what follows does.
    """
    index.observe(0, stored(1, 2))
    index.observe(1, stored(1))
    index.observe(0, BEGUN)
    assert index.match([1]) == [0, 1, 0]
    index.observe(0, stored(1))

    assert index.match([1, 2]) == [1, 1, 0]


def test_a_dispatched_prefix_counts_at_once(index):
    """
    A fork that comes while the first request is being computed finds it.
    """
    index.expect(1, [1, 2])

    assert index.match([1, 2, 3]) == [0, 2, 0]


def test_a_request_that_was_not_computed_leaves_nothing(index):
    """
    Refused, lost or never sent; another one with the same pages still counts.
    """
    first, second = index.expect(1, [1, 2]), index.expect(1, [1])
    index.withdraw(first)
    index.withdraw(first)

    assert index.match([1, 2]) == [0, 1, 0]
    index.withdraw(second)
    assert index.match([1, 2]) == [0, 0, 0]


def test_an_answered_request_counts_until_the_second_age_after_it(index):
    """
    Long enough for its group to say what it stored, and not for ever.
    """
    index.age()
    index.fulfil(index.expect(0, [1]))
    index.age()
    assert index.match([1]) == [1, 0, 0]
    index.age()

    assert index.match([1]) == [0, 0, 0]


def test_an_open_request_does_not_age(index):
    """
    It may wait in its group's queue for minutes.
    """
    index.expect(0, [1])
    for _ in range(5):
        index.age()

    assert index.match([1]) == [1, 0, 0]


def test_what_the_group_says_outlives_what_was_expected(index):
    """
    The expectation goes, the fact stays.
    """
    index.fulfil(index.expect(0, [1]))
    index.observe(0, stored(1))
    index.age()
    index.age()

    assert index.match([1]) == [1, 0, 0]


@pytest.mark.parametrize("is_told_first", [True, False])
def test_what_the_group_stored_and_evicted_is_expected_no_longer(index, is_told_first):
    """
    When its request has ended and the group has told its last page, the group's word counts.
    """
    sent = index.expect(0, [1, 2])
    happens = [lambda: index.fulfil(sent), lambda: index.observe(0, stored(1, 2))]
    for each in reversed(happens) if is_told_first else happens:
        each()
    index.observe(0, evicted(2))

    assert index.match([1, 2]) == [1, 0, 0]


def test_a_request_that_is_open_is_expected_whatever_the_group_says(index):
    """
    What was evicted while it waits, it will store again.
    """
    index.expect(0, [1])
    index.observe(0, stored(1))
    index.observe(0, evicted(1))

    assert index.match([1]) == [1, 0, 0]


def test_a_new_life_of_a_group_holds_nothing(index):
    """
    Neither what it told nor what was sent to it; its requests may end afterwards.
    """
    index.observe(0, stored(1))
    sent = index.expect(0, [1, 2])
    index.begin_group(0)
    assert index.match([1, 2]) == [0, 0, 0]
    index.fulfil(sent)
    index.withdraw(sent)

    assert index.match([1, 2]) == [0, 0, 0]


def test_the_longest_unused_prefix_is_forgotten_first_and_from_its_end():
    """
    A match is a use; the beginning of a prefix serves more prompts than its end.
    """
    index = PrefixIndex(num_groups=1, max_digests=4)
    index.observe(0, stored(1, 2))
    index.observe(0, stored(11, 12))
    index.match([1, 2])
    index.observe(0, stored(21))
    assert index.match([11, 12]) == [1]
    index.observe(0, stored(22))

    assert index.match([1, 2]) == [1]
    assert len(index) == 4
    index.check_integrity()


def test_the_oldest_expectation_is_dropped_when_there_are_too_many():
    """
    One that has ended before one that is open; one that alone is too long counts nothing.
    """
    index = PrefixIndex(num_groups=1, max_expected_digests=3)
    index.expect(0, [1])
    index.fulfil(index.expect(0, [2]))
    index.expect(0, [3, 4])
    assert [index.match([digest]) for digest in (1, 2, 3)] == [[1], [0], [1]]
    index.fulfil(index.expect(0, [5, 6, 7, 8]))

    assert index.match([5]) == [0]
    index.check_integrity()


NUM_GROUPS = 3
RANKS = st.integers(0, NUM_GROUPS - 1)
DIGESTS = st.lists(st.integers(0, 7), max_size=5, unique=True)


class AnyNews(RuleBasedStateMachine):
    """The index and its oracle agree on every prompt, whatever comes in whatever order."""

    @initialize(max_digests=st.sampled_from([1, 3, 100]), max_expected=st.sampled_from([4, 100]))
    def start(self, max_digests, max_expected):
        self.index = PrefixIndex(NUM_GROUPS, max_digests, max_expected)
        self.naive = NaiveIndex(NUM_GROUPS, max_digests, max_expected)
        self.sent = {}
        self.count = 0

    @rule(rank=RANKS, digests=DIGESTS, change=st.sampled_from(list(Change)))
    def told(self, rank, digests, change):
        event = PrefixEvent(change, digests)
        self.index.observe(rank, event)
        self.naive.observe(rank, event)

    @rule(rank=RANKS, digests=DIGESTS)
    def dispatched(self, rank, digests):
        self.count += 1
        self.sent[self.count] = self.index.expect(rank, digests)
        self.naive.expect(self.count, rank, digests)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def answered(self, data):
        name = data.draw(st.sampled_from(list(self.sent)))
        self.count += 1
        self.index.fulfil(self.sent[name])
        self.naive.fulfil(name, self.count)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def refused(self, data):
        name = data.draw(st.sampled_from(list(self.sent)))
        self.index.withdraw(self.sent[name])
        self.naive.withdraw(name)

    @rule()
    def time_passes(self):
        self.index.age()
        self.naive.age()

    @rule(rank=RANKS)
    def group_begins_anew(self, rank):
        self.index.begin_group(rank)
        self.naive.begin_group(rank)

    @rule(digests=DIGESTS)
    def matched(self, digests):
        assert self.index.match(digests) == self.naive.match(digests)

    @invariant()
    def books_agree(self):
        self.index.check_integrity()
        assert len(self.index) == len(self.naive.used)
        for digest in range(8):  # looked at without using it: in the books themselves
            groups = [digest in held for held in self.naive.told]
            assert [digest in held for held in self.index._held] == groups


AnyNews.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestAnyNews = AnyNews.TestCase
