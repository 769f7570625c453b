from hypothesis import given
from hypothesis import strategies as st

from balancer.simulation.prefix_cache import PrefixCache


def test_a_match_is_as_many_pages_as_are_there_from_the_first_on():
    """
    A page behind a gap does not count.
    """
    cache = PrefixCache(10)
    cache.insert([1, 2, 3])

    assert [cache.match(pages) for pages in ([1, 2, 4], [4, 2, 3], [1, 2, 3], [])] == [2, 0, 3, 0]


def test_looking_is_not_using():
    """
    What was only matched goes first.
    """
    cache = PrefixCache(2)
    cache.insert([1])
    cache.insert([2])
    cache.match([1])

    assert cache.insert([3]) == ([3], [1])


def test_a_cache_without_room_keeps_nothing():
    """
    And evicts nothing.
    """
    cache = PrefixCache(0)

    assert cache.insert([1, 2]) == ([], [])
    assert len(cache) == 0


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=30),
)
def test_no_page_stays_without_the_one_before_it(room, used):
    """
    Prefixes of a few conversations: whatever is used, what is kept of each has no gap, and fits.
    """
    cache, kept = PrefixCache(room), set()
    for conversation, num_pages in used:
        stored, evicted = cache.insert([100 * conversation + n for n in range(num_pages)])
        kept = (kept | set(stored)) - set(evicted)
        assert len(cache) == len(kept) <= room
        assert all(page % 100 == 0 or page - 1 in kept for page in kept)
