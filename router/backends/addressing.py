"""How a request is addressed to one DP rank of an engine that has several."""

from __future__ import annotations

from router.backends.backend import Kind
from shm.group_table import GroupEntry

# Both engines take the header under any case; spelt as their documents spell it.
_HEADERS = {Kind.VLLM: b"X-data-parallel-rank", Kind.SGLANG: b"X-Data-Parallel-Rank"}


def rank_header(kind: Kind, rank: int) -> tuple[bytes, bytes]:
    """Name and value of the header that asks for that rank."""
    return _HEADERS[kind], b"%d" % rank


def rank_lines(entry: GroupEntry) -> bytes:
    """Finished header lines that name the rank; none where there is nothing to tell apart."""
    if entry.engine_rank is None:
        return b""
    return b"%s: %s\r\n" % rank_header(Kind(entry.engine), entry.engine_rank)
