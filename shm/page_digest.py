"""
How a page of a prefix cache is named, so that front doors and groups name it alike.

A page's digest stands for every token up to its end.  So a prompt's digests can
be computed without asking anybody, and the longest prefix that somebody holds is
as many of them, from the first on, as he says that he has:

    digest of page k = BLAKE2b-64(digest of page k - 1, the page's tokens)

all as little-endian words, 8 bytes for a digest (0 before the first page) and 4
for a token.  Two prompts of one digest differ with a chance of 2**-64; where a
digest only advises, as in choosing a group, that is never noticed.  Why this
hash: docs/decisions/0012.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_BYTES = 8
TOKEN_BYTES = 4
NO_DIGEST = 0


def page_digest(before: int, tokens: Sequence[int]) -> int:
    """Return the digest of a page of tokens; before: that of the page before, or NO_DIGEST."""
    return page_digests(tokens, len(tokens), before)[0]


def page_digests(tokens: Sequence[int], page_size: int, before: int = NO_DIGEST) -> list[int]:
    """
    Return the digests of the full pages of tokens; before: that of the page before them.

    Raises OverflowError if one is no token id: negative, or over 32 bits.
    """
    words = array("I", tokens)
    if sys.byteorder == "big":
        words.byteswap()
    data, page_bytes = words.tobytes(), page_size * TOKEN_BYTES
    digest, digests = before.to_bytes(DIGEST_BYTES, "little"), []
    for start in range(0, len(data) - page_bytes + 1, page_bytes):
        page = digest + data[start : start + page_bytes]
        digest = blake2b(page, digest_size=DIGEST_BYTES).digest()
        digests.append(digest)
    return list(struct.unpack(f"<{len(digests)}Q", b"".join(digests)))
