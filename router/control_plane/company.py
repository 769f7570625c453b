"""
What holds for groups whose processes live and end together: ranks that compute together, or
that one launcher has started.

    one of them         the others are
    is not well         published as starting, though they may be well: nobody would compute
    drains              to drain: who has drained waits for them, and all begin anew together

That they are well is still known, so all serve again from the moment in which the last does.
One that has released its memory is well: those that serve on beside it compute alone.
Streams are not cut by this: they end with their own process.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.control_plane.member import Member, drained
from shm.group_table import GroupState

_WELL = (GroupState.READY, GroupState.SUSPECT, GroupState.RELEASED)


def published(members: Sequence[Member]) -> list[Member]:
    """The members as the table has them."""
    if all(map(_is_well, members)):
        return list(members)
    return [_held_back(member) for member in members]


def drained_together(members: Sequence[Member]) -> list[Member]:
    """The members, of which all that are well drain if one does."""
    if not any(member.entry.state is GroupState.DRAINING for member in members):
        return list(members)
    return [drained(member) if _is_well(member) else member for member in members]


def _held_back(member: Member) -> Member:
    return member.in_state(GroupState.STARTING) if _is_well(member) else member


def _is_well(member: Member) -> bool:
    return member.entry.state in _WELL
