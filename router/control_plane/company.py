"""
What holds for groups whose processes live and end together: ranks that compute together, or
that one launcher has started.

    one of them         the others are
    does not serve      published as starting, though they may be well: nobody would compute
    drains              to drain: who has drained waits for them, and all begin anew together

That they are well is still known, so all serve again from the moment in which the last does.
Streams are not cut by this: they end with their own process.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.control_plane.member import Member, drained
from shm.group_table import GroupState

_SERVING = (GroupState.READY, GroupState.SUSPECT)


def published(members: Sequence[Member]) -> list[Member]:
    """The members as the table has them."""
    if all(map(_serves, members)):
        return list(members)
    return [_held_back(member) for member in members]


def drained_together(members: Sequence[Member]) -> list[Member]:
    """The members, of which all that serve drain if one does."""
    if not any(member.entry.state is GroupState.DRAINING for member in members):
        return list(members)
    return [drained(member) if _serves(member) else member for member in members]


def _held_back(member: Member) -> Member:
    return member.in_state(GroupState.STARTING) if _serves(member) else member


def _serves(member: Member) -> bool:
    return member.entry.state in _SERVING
