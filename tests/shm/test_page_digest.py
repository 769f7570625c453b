import struct
from hashlib import blake2b

import pytest

from shm.page_digest import NO_DIGEST, page_digest, page_digests

VECTOR_FIRST, VECTOR_SECOND = 0xFF357D852574B4A8, 0x9BB8E737CB25B8F4


def test_digests_are_those_of_the_documents():
    """
    A test vector: whoever writes another program against it gets the same words.
    """
    assert page_digests([1, 2, 3, 4, 5], 2) == [VECTOR_FIRST, VECTOR_SECOND]


def test_the_formula_is_the_one_that_is_written_down():
    """
    BLAKE2b of the digest before and the tokens, little-endian, cut to 64 bits by its parameter.
    """
    data = struct.pack("<Q2I", VECTOR_FIRST, 3, 4)

    assert blake2b(data, digest_size=8).digest() == struct.pack("<Q", VECTOR_SECOND)


def test_a_page_alone_has_the_digest_that_it_has_among_others():
    """
    If it is told what was before it.
    """
    first, second = page_digests([7, 8, 9, 10], 2)

    assert page_digest(NO_DIGEST, [7, 8]) == first
    assert page_digest(first, [9, 10]) == second == page_digests([9, 10], 2, first)[0]


def test_a_digest_stands_for_all_tokens_before_it():
    """
    Equal pages after different ones are different pages.
    """
    assert page_digests([1, 2, 5, 6], 2)[1] != page_digests([1, 3, 5, 6], 2)[1]
    assert page_digests([1, 2, 5, 6], 2)[0] == page_digests([1, 2, 7, 8], 2)[0]


@pytest.mark.parametrize(("num_tokens", "num_pages"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2)])
def test_only_full_pages_have_a_digest(num_tokens, num_pages):
    """
    What follows the last one is nobody's page yet.
    """
    assert len(page_digests(range(num_tokens), 4)) == num_pages


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token_id_is_refused(token):
    """
    A client may send any integer.
    """
    with pytest.raises(OverflowError):
        page_digests([token], 1)
