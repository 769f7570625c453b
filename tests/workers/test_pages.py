import pytest

from workers.engine.pages import PagePool


def test_a_request_gets_just_the_pages_that_its_tokens_need():
    """
    Growing rounds up to whole pages, and growing within a page takes none.
    """
    pool = PagePool(num_pages=4, page_size=8)

    assert pool.grow(1, 9)
    assert len(pool.table(1)) == 2
    assert pool.grow(1, 16)
    assert pool.num_free == 2


def test_growing_beyond_what_is_free_changes_nothing():
    """
    A refused growth leaves the table and the free pages as they were.
    """
    pool = PagePool(num_pages=2, page_size=8)
    pool.grow(1, 8)

    assert not pool.grow(2, 9)
    assert pool.num_free == 1
    assert not pool.table(2)
    pool.check_integrity()


def test_released_pages_can_be_used_again():
    """
    After a release all pages are free, and a second release does nothing.
    """
    pool = PagePool(num_pages=3, page_size=1)
    pool.grow(1, 3)

    pool.release(1)
    pool.release(1)

    assert pool.num_free == 3
    assert pool.grow(2, 3)


def test_a_page_with_two_owners_is_found():
    """
    The integrity check fails if a page is owned and free, or owned twice.
    """
    pool = PagePool(num_pages=3, page_size=1)
    pool.grow(1, 1)
    pool.table(1).append(0)

    with pytest.raises(AssertionError, match="4 pages accounted for, 3 of them different"):
        pool.check_integrity()
