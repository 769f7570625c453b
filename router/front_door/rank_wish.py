"""
A wish for a DP rank of SGLang that stands in a body: `routed_dp_rank`, or by its older name
`data_parallel_rank`.

On its OpenAI paths SGLang lets the header `X-Data-Parallel-Rank`, which we choose, override that
field; on its native ones it reads the field alone.  Either way the client's wish and our
choice must be the same rank: else it would be ignored there, and here the books be on a rank that
does not compute it.  So groups of other ranks get no such request.  The body goes as it came.

The number is the engine's own, as the header `X-Data-Parallel-Rank` of a client is one of ours.
Engines of other kinds know no such field, and one whose ranks we do not choose reads it itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from router.backends.backend import Kind
from router.errors import BadRequest
from shm.group_table import GroupEntry

_FIELDS = ("routed_dp_rank", "data_parallel_rank")  # the first that is not null counts


def groups_against(
    rows: Iterable[GroupEntry], fields: Mapping[str, Any], dp_rank: int | None
) -> Collection[int]:
    """
    Groups of SGLang whose rank is not the one that the body asks for; none if it asks for none.

    `dp_rank` is the group that the header asks for.  Raises BadRequest if the two contradict each
    other, or if no group at all has the rank.
    """
    name = next((each for each in _FIELDS if fields.get(each) is not None), None)
    wanted = None if name is None else _number(fields[name])
    if wanted is None:
        return ()  # what is no number the engine refuses in its own words
    known = list(rows)
    ranks: dict[int, int] = {
        row.dp_rank: row.engine_rank
        for row in known
        if row.engine == Kind.SGLANG.value and row.engine_rank is not None
    }
    against = {group for group, rank in ranks.items() if rank != wanted}
    if dp_rank in against:
        raise BadRequest(
            f"{name} is {wanted}, but X-Data-Parallel-Rank asks for DP group {dp_rank}, which is "
            f"rank {ranks[dp_rank]} of its engine",
            name,
        )
    if ranks and len(against) == len(known):
        there = ", ".join(
            map(str, sorted(rank for rank in set(ranks.values()) if rank is not None))
        )
        raise BadRequest(f"{name} is {wanted}; the engines' DP ranks are {there}", name)
    return against


def _number(value: object) -> int | None:
    """As SGLang reads it: a number may come as a string of digits."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return None
