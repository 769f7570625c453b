"""
How a page of a prefix cache is named, so that front doors and groups name it alike.

A page's digest stands for every token up to its end.  So a prompt's digests can
be computed without asking anybody, and the longest prefix that somebody holds is
as many of them, from the first on, as he says that he has:

    digest of page k = BLAKE2b-64(digest of page k - 1, the page's tokens)

all as little-endian words, 8 bytes for a digest (0 before the first page) and 4
for a token.  Two prompts of one digest differ with a chance of 2**-64; where a
digest only advises, as in choosing a group, that is never noticed.
"""

from __future__ import annotations

import struct
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

    Raises struct.error if one is no token id: negative, or over 32 bits.
    """
    num_full = len(tokens) // page_size
    words = struct.pack(f"<{len(tokens)}I", *tokens)
    digest = before.to_bytes(DIGEST_BYTES, "little")
    page_bytes = page_size * TOKEN_BYTES
    digests = []
    for start in range(0, num_full * page_bytes, page_bytes):
        page = words[start : start + page_bytes]
        digest = blake2b(digest + page, digest_size=DIGEST_BYTES).digest()
        digests.append(int.from_bytes(digest, "little"))
    return digests
