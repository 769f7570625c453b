"""
Where a request goes that has left its group.

Ranks of one engine share an address, and its fate.  Where it cannot be reached, none of
them can: without this, an engine that is gone would take every retry, because nothing is
as empty as the books of ranks that nobody reaches.

    the group           to another address     to a rank at the same one
    is unreachable      yes                    no
    was lost, refuses   yes                    only if nobody else can take it
"""

from __future__ import annotations

from collections.abc import Collection

from balancer.assignment import Assignment
from balancer.load import RequestShape
from router.errors import NoGroup
from router.front_door.dispatcher import Dispatcher
from router.front_door.upstream import Address


def assign_elsewhere(
    dispatcher: Dispatcher,
    shape: RequestShape,
    excluded: Collection[int],
    left: Address,
    *,
    is_reachable: bool,
) -> Assignment:
    """Choose none of the excluded, and rather none at the address that was left.  NoGroup."""
    try:
        return dispatcher.assign(shape, {*excluded, *dispatcher.groups_at(left)})
    except NoGroup:
        if not is_reachable:
            raise
        return dispatcher.assign(shape, excluded)
