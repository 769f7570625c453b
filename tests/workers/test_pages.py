import pytest

from tests.workers.fakes import make_request
from workers.engine.page_tables import PageTables
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import NoCache
from workers.engine.radix_cache import RadixCache


def make_tables(num_pages, page_size, has_cache=True):
    pool = PagePool(num_pages, page_size)
    tables = PageTables(pool, RadixCache(page_size) if has_cache else NoCache())
    return pool, tables


def compute(tables, request, num_tokens):
    """Open a table, if there is none, and have num_tokens of the request computed."""
    if not tables.pages(request):
        request.num_computed = tables.open(request)
    assert tables.grow(request, num_tokens)
    request.num_computed = num_tokens


def test_a_request_gets_just_the_pages_that_its_tokens_need():
    """
    Growing rounds up to whole pages, and growing within a page takes none.
    """
    pool, tables = make_tables(num_pages=4, page_size=8)
    request = make_request(1, range(16))
    tables.open(request)

    assert tables.grow(request, 9)
    assert len(tables.pages(request)) == 2
    assert tables.grow(request, 16)
    assert pool.num_free == 2


def test_growing_beyond_what_is_available_changes_nothing():
    """
    A refused growth leaves the table and the free pages as they were.
    """
    pool, tables = make_tables(num_pages=2, page_size=8)
    first, second = make_request(1, range(8)), make_request(2, range(9))
    for request in (first, second):
        tables.open(request)
    tables.grow(first, 8)

    assert not tables.grow(second, 9)
    assert pool.num_free == 1
    assert not tables.pages(second)
    tables.check_integrity()


@pytest.mark.parametrize("has_cache", [False, True])
def test_closed_tables_leave_nothing_that_cannot_be_had(has_cache):
    """
    Full pages go to the cache if there is one, and are evicted when others need them.
    """
    pool, tables = make_tables(3, 2, has_cache)
    request = make_request(1, range(5))
    compute(tables, request, 5)
    tables.close(request)
    tables.check_integrity()

    assert pool.num_free == (1 if has_cache else 3)
    assert tables.num_available == 3
    compute(tables, make_request(2, range(10, 16)), 6)
    tables.check_integrity()


def test_equal_prompts_computed_side_by_side_end_with_one_set_of_pages():
    """
    The second to store them frees its own and reads the first one's from then on.
    """
    pool, tables = make_tables(num_pages=8, page_size=2)
    first, second = make_request(1, range(5)), make_request(2, range(5))
    for request in (first, second):
        compute(tables, request, 5)
    for request in (first, second):
        tables.store(request)
    tables.check_integrity()

    assert tables.pages(first)[:2] == tables.pages(second)[:2]
    assert tables.pages(first)[2] != tables.pages(second)[2], "neither page is full"
    assert pool.num_free == 4


def test_a_rewritten_table_does_not_change_under_who_reads_it():
    """
    What was handed out before still names the pages that the step computes with.
    """
    _, tables = make_tables(num_pages=8, page_size=2)
    first, second = make_request(1, range(4)), make_request(2, range(4))
    for request in (first, second):
        compute(tables, request, 4)
    handed_out = tables.pages(second)
    before = list(handed_out)
    for request in (first, second):
        tables.store(request)

    assert tables.pages(second) != before == handed_out


def test_a_prefix_limit_holds_until_the_prompt_was_computed_once():
    """
    Afterwards, as for everybody, one token remains to be computed.
    """
    _, tables = make_tables(num_pages=8, page_size=2)
    first = make_request(1, range(8))
    compute(tables, first, 8)
    tables.close(first)
    limited = make_request(2, range(8), prefix_limit=5)

    assert tables.num_cached_tokens(limited) == 4
    limited.account.computed(0, 8)
    assert tables.num_cached_tokens(limited) == 6


@pytest.mark.parametrize("page", [7, 0], ids=["owned and free", "owned twice"])
def test_a_page_with_two_owners_is_found(page):
    """
    The integrity check counts every page once.
    """
    pool = PagePool(num_pages=8, page_size=1)
    used = [*pool.take(7), page]

    with pytest.raises(AssertionError, match="9 pages accounted for, 8 of them different, of 8"):
        pool.check_integrity(used)
